// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "stages/shared/yaml/node.h"

namespace braise::yaml {

/// Why a text is not acceptable YAML, and what to do about it.
struct ParseFault {
  Mark at;
  std::string problem;
  std::string remedy;
};

/// Parses one YAML document. Refused, each with its place: text that is not UTF-8, NUL and other control characters,
/// tabs in indentation, more than one document, tags other than the core schema's, keys that are not scalars, duplicate
/// keys, unknown anchors, aliases that contain themselves, aliases that expand to more than 100,000 values, and
/// nesting deeper than 100. Merge keys (`<<`) are applied as YAML 1.1 says: keys of the map itself win, then earlier
/// maps. A syntax error stops at the first; otherwise all faults are reported. Nothing is returned where there is a
/// fault.
std::optional<Node> parse(const std::string& text, const std::string& name, std::vector<ParseFault>& faults);

/// A JSON value as block-style YAML that parse() reads back to the same value and type. Strings are always quoted.
std::string to_text(const nlohmann::json& value);

}  // namespace braise::yaml
