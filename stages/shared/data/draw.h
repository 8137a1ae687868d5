// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/random.h"

namespace braise::data {

/// What a number is drawn for. Part of the reproducible result: never renumber.
enum class Use : std::uint8_t {
  kWindowOffset = 1,
  kWindowOrder = 2,
  kWindowStart = 3,
  kSequenceOrder = 4,
  kPieceChoice = 5,
  kPieceOrder = 6,
  kSplit = 7,
  kMixture = 8,
};

/// The random numbers of one source.
struct Draw {
  std::uint64_t seed = 0;
  std::uint64_t source = 0;

  /// `detail`: below 2^56.
  core::RandomStream stream(std::uint64_t epoch, Use use, std::uint64_t detail = 0) const {
    return core::RandomStream(seed, core::Purpose::kData, epoch, source, static_cast<std::uint64_t>(use) | detail << 8);
  }
};

/// 64 bits: the first half of block i.
constexpr std::uint64_t bits_at(const core::RandomStream& random, std::uint64_t i) {
  const auto block = random.block(i);
  return std::uint64_t{block[1]} << 32 | block[0];
}

/// Scales 64 random bits to a number below `end`; no number is more likely than another by over end / 2^64.
constexpr std::uint64_t below(std::uint64_t bits, std::uint64_t end) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(Wide{bits} * end >> 64);
}

}  // namespace braise::data
