// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace braise::model {

/// Which activations a forward pass throws away, to compute them again for the backward pass. It changes memory and
/// time, and not one bit of any result.
struct Checkpointing {
  enum class Kind : std::uint8_t {
    kNone,
    kAttention,   ///< the outputs of attention
    kEveryBlock,  ///< all of every `every`-th block, but its input
  };
  Kind kind = Kind::kNone;
  std::int64_t every = 1;  ///< 1: all blocks
  bool elsewhere = false;  ///< whether the inputs of those blocks are not kept on the device
};

}  // namespace braise::model
