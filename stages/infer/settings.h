// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"

namespace braise::infer {

/// Tokens that go through the model in one pass, where prompts give so many: enough for matrix products at full speed,
/// few enough that running requests do not wait long, and that activations stay small.
inline constexpr std::int64_t kPassTokens = 512;

/// How tokens are chosen, and when there are enough.
struct Sampling {
  float temperature = 1;
  std::int64_t top_k = 0;
  double top_p = 1;
  std::int64_t max_tokens = 1;
  std::vector<std::string> stop;
  std::uint64_t seed = 0;
};

/// The stage's configuration, typed. Keys: schemas/stage.infer.schema.json.
struct Settings {
  Sampling sampling;
  std::uint64_t samples = 1;
  core::Dtype compute = core::Dtype::kBfloat16;
  std::int64_t batch = 1;
};

Settings settings_from(const nlohmann::json& config, std::int64_t seed);

}  // namespace braise::infer
