// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/tier.h"
#include "stages/shared/model/checkpointing.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/part.h"

namespace braise::model {

/// What a decoder holds at most, in bytes by ledger category.
struct DecoderMemory {
  std::int64_t parameters = 0;
  std::int64_t gradients = 0;           ///< one accumulator of each
  std::int64_t activations = 0;         ///< of forward and backward pass
  std::int64_t workspace = 0;           ///< with the copies of weights packed for products
  std::int64_t sent_to_tensor = 0;      ///< bytes that it sends to ranks that share its blocks, in a step
  std::int64_t sent_to_stages = 0;      ///< and to the stages next to it
  std::int64_t gathered_workspace = 0;  ///< the same with the copies of one unit at a time, which are dropped after use
};

/// What a rank has of a model, and of a step's micro-batches.
struct PassPlace {
  Part part;
  int stage = 0;  ///< of `stages`
  int stages = 1;
  std::int64_t micro_batches = 1;
};

/// The memory of training steps on B sequences of T tokens with `threads` threads, multiplying on that tier; parameters
/// and gradients are those of all parts.
DecoderMemory training_memory(const Config& config, core::Dtype compute, const Checkpointing& checkpointing,
                              std::int64_t sequences, std::int64_t length, int threads, core::Tier tier,
                              const PassPlace& place);

}  // namespace braise::model
