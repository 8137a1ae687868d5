// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "stages/shared/model/parameters.h"
#include "stages/train/settings.h"

namespace braise::train {

/// Whether `name` fits `pattern`: `*` stands for any text, `?` for one character.
bool fits(const std::string& pattern, const std::string& name);

/// How one parameter is updated.
struct ParameterRule {
  bool frozen = false;
  double lr_scale = 1;
  double weight_decay = 0;
};

/// The rule of each parameter: that of the first group it fits; else the optimizer's weight decay for matrices that are
/// no embedding, and none for norms, biases and embeddings. `unused`: patterns that fit no parameter.
std::vector<ParameterRule> parameter_rules(std::span<const model::ParameterSpec> specs,
                                           const OptimizerSettings& optimizer, std::span<const std::string> freeze,
                                           std::vector<std::string>& unused);

}  // namespace braise::train
