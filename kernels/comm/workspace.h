// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

/// The memory that sums over ranks are taken in.
namespace braise::comm {

inline constexpr std::int64_t kSlotBytes = std::int64_t{1} << 20;   ///< of another rank's part: in cache until summed
inline constexpr std::int64_t kLeastSlotBytes = 16 << 10;           ///< with many ranks
inline constexpr std::int64_t kMostSlots = std::int64_t{64} << 20;  ///< bytes of all
inline constexpr std::int64_t kSumBlock = 16384;  ///< elements summed at a time: a rank's fit in L1, all ranks' in L2

/// What is received from another rank at a time.
inline std::int64_t slot_bytes(int ranks) {
  const std::int64_t share = kMostSlots / (2 * std::max(1, ranks - 1)) / 4096 * 4096;
  return std::clamp(share, kLeastSlotBytes, kSlotBytes);
}

/// What a rank's Collectives takes with its first sum.
inline std::int64_t workspace_bytes(int ranks) {
  return 2 * (ranks - 1) * slot_bytes(ranks) + kSumBlock * 4;
}

}  // namespace braise::comm
