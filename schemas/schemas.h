// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace braise::schemas {

/// A schema file as it lies in schemas/, embedded at build.
struct EmbeddedSchema {
  const char* name;  ///< file name, for example "recipe.schema.json"
  const char* text;  ///< its whole text
};

/// Every embedded schema, ended by an entry of null pointers. Generated at build.
extern const EmbeddedSchema kEmbedded[];

/// The names of all embedded schemas, in alphabetical order.
std::vector<std::string> names();

/// The text of a schema, as it lies in schemas/; nullptr where there is none of that name.
const char* text(std::string_view name);

/// A schema, parsed once per process. The name must exist (an assertion).
const nlohmann::json& schema(std::string_view name);

}  // namespace braise::schemas
