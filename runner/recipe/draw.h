// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "stages/shared/yaml/node.h"

namespace braise::recipe {

/// What a parameter of a random search is drawn from.
struct Distribution {
  enum class Kind { uniform, log_uniform, integer, choice };
  Kind kind = Kind::uniform;
  std::vector<yaml::Node> values;  ///< the two bounds, or what is chosen from

  /// Of a map with one key, as schemas/recipe.schema.json has it. Else nothing, and `problem` and `remedy` say why.
  static std::optional<Distribution> from_node(const yaml::Node& map, std::string& problem, std::string& remedy);
};

/// The value of a parameter at one sample: a function of these alone, so that further samples change none that was
/// there. Numbers of `uniform` and `log_uniform` are rounded to 6 significant digits.
yaml::Node draw(const Distribution& distribution, std::uint64_t seed, const std::string& path, std::uint64_t sample);

}  // namespace braise::recipe
