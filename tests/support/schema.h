// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::test {

/// What an independent validator finds wrong with a value by a schema as it is published; empty: nothing.
std::string schema_faults(const nlohmann::json& value, const nlohmann::json& schema);

/// The same for the schema of a name in schemas/.
std::string schema_faults(const nlohmann::json& value, const char* schema_name);

}  // namespace braise::test
