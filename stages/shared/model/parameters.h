// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/core/shape.h"
#include "stages/shared/model/config.h"

namespace braise::model {

/// What a parameter does, in a layer or at the ends.
enum class Role : std::uint8_t {
  kTokens,
  kPositions,
  kNorm1Weight,
  kNorm1Bias,
  kQkvWeight,
  kQkvBias,
  kQNorm,
  kKNorm,
  kOWeight,
  kOBias,
  kNorm2Weight,
  kNorm2Bias,
  kUpWeight,  ///< of gated models: gate, then up
  kUpBias,
  kDownWeight,
  kDownBias,
  kAfter1Weight,  ///< of the norms of what the two parts add
  kAfter1Bias,
  kAfter2Weight,
  kAfter2Bias,
  kFinalWeight,
  kFinalBias,
  kHead,
};

enum class Initial : std::uint8_t {
  kNormal,  ///< mean 0, standard deviation `std`
  kZeros,
  kOnes,  ///< the scale of a norm, less norm_offset
};

/// A parameter as a Hugging Face checkpoint has it. Those that are used as one (q, k and v; gate and up) lie one after
/// another in one tensor, which their role and layer name.
struct ParameterSpec {
  std::string name;  ///< "transformer.h.3.attn.c_attn.weight", "model.layers.3.self_attn.q_proj.weight"
  core::Shape shape;
  Role role = Role::kTokens;
  std::int64_t layer = -1;  ///< -1: of the ends
  std::int64_t offset = 0;  ///< elements before it in its tensor
  Initial initial = Initial::kNormal;
  double std = 0;
};

/// What Hugging Face calls the weight of a head of its own.
std::string head_name(const Config& config);

/// All parameters of a model, in the order of computation; a tied head has none of its own.
/// Initial values: normal with initial_std; projections into the residual stream of GPT-2 with initial_std / sqrt(2
/// layers) (Radford et al. 2019, section 2.3); norms 1, biases 0.
std::vector<ParameterSpec> parameter_specs(const Config& config);

}  // namespace braise::model
