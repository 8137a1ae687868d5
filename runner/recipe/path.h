// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "stages/shared/yaml/node.h"

namespace braise::recipe {

/// Why nothing can be put at a dotted path of a recipe: problem and remedy. Nothing where the schema knows the path;
/// the stages it goes through must be there.
std::optional<std::pair<std::string, std::string>> unknown_path(const yaml::Node& root, const std::string& path);

/// The same tree with `value` at the path; maps that are missing on the way are made. Expects what unknown_path passes.
yaml::Node with_path(const yaml::Node& root, const std::vector<std::string>& path, const yaml::Node& value,
                     std::size_t depth = 0);

/// The value at a path, or the deepest one above it that is there.
const yaml::Node& nearest_at(const yaml::Node& root, const std::vector<std::string>& path);

/// Two maps as one: what `over` says wins, maps are merged key by key, all else is replaced.
yaml::Node merge(const yaml::Node& base, const yaml::Node& over);

}  // namespace braise::recipe
