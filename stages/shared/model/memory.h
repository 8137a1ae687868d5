// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/dtype.h"
#include "stages/shared/model/checkpointing.h"
#include "stages/shared/model/config.h"

namespace braise::model {

/// What a decoder holds at most, in bytes by ledger category, where a processor has tiles for
/// products of bf16.
struct DecoderMemory {
  std::int64_t parameters = 0;
  std::int64_t gradients = 0;    ///< one accumulator of each
  std::int64_t activations = 0;  ///< of forward and backward pass
  std::int64_t workspace = 0;    ///< with the copies of weights packed for products
  std::int64_t gathered_workspace = 0;  ///< the same with the copies of one unit at a time, which are dropped after use
};

/// The memory of training steps on B sequences of T tokens with `threads` threads.
DecoderMemory training_memory(const Config& config, core::Dtype compute, const Checkpointing& checkpointing,
                              std::int64_t sequences, std::int64_t length, int threads);

}  // namespace braise::model
