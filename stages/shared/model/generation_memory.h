// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/tier.h"
#include "stages/shared/model/config.h"

namespace braise::model {

/// What a KvCache of so many sequences and positions takes.
std::int64_t kv_cache_bytes(const Config& config, core::Dtype dtype, std::int64_t sequences, std::int64_t positions);

/// How a decoder generates.
struct GenerationShape {
  std::int64_t sequences = 1;    ///< in the cache
  std::int64_t positions = 1;    ///< of each
  std::int64_t pass_tokens = 1;  ///< that go through in one pass at most, of all sequences together
  int threads = 1;
  core::Tier tier = core::Tier::kBaseline;  ///< that products are computed on
};

/// What a decoder without gradients, its cache and its passes hold at most, in bytes by ledger category.
struct GenerationMemory {
  std::int64_t parameters = 0;
  std::int64_t kv = 0;
  std::int64_t activations = 0;  ///< with the logits
  std::int64_t workspace = 0;    ///< with the copies of weights packed for products
};

GenerationMemory generation_memory(const Config& config, core::Dtype compute, const GenerationShape& shape);

}  // namespace braise::model
