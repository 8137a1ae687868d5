// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/shared/model/config.h"

namespace braise::model {

/// What is wrong with the `model` of a recipe.
struct RecipeProblem {
  std::string key;      ///< "heads"; empty: the whole
  std::string problem;  ///< "is 3, which does not divide hidden 64"
  std::string remedy;
};

/// The configuration that a recipe's `model` describes: the keys of stage.train.schema.json but `from`, every default
/// filled in. `vocabulary` and `positions` stand where the recipe says 0. Every model of a recipe has a config.json:
/// `llama` becomes Hugging Face's llama, mistral, qwen2 or qwen3, whichever has the window, biases and norms asked for.
/// Where there are problems nothing is returned.
std::optional<Config> from_recipe(const nlohmann::json& model, std::int64_t vocabulary, std::int64_t positions,
                                  std::vector<RecipeProblem>& problems);

}  // namespace braise::model
