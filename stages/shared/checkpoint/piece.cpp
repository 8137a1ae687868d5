// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/core/reduce.h"
#include "stages/shared/checkpoint/piece.h"

namespace braise::checkpoint {

Range share_of(std::int64_t elements, int rank, int ranks) {
  const std::int64_t blocks = core::reduction_blocks(elements);
  const auto cut = [&](std::int64_t part) {
    return std::min(elements, blocks / ranks * part * core::kReductionBlock +
                                  std::min(part, blocks % ranks) * core::kReductionBlock);
  };
  return {cut(rank), cut(rank + 1)};
}

}  // namespace braise::checkpoint
