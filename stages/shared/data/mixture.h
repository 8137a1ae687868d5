// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "stages/shared/data/draw.h"

namespace braise::data {

/// Which source each sequence is from. Of any first n sequences, source k has its share of n but for less than the
/// number of sources, at whatever n: the first source takes a number of sequences that grows as evenly as whole numbers
/// can, floor(n s + phase), the second the same way its share of those left, and so on. So any place is computed
/// without those before it.
class Mixture {
 public:
  struct Place {
    std::size_t source = 0;
    std::uint64_t index = 0;  ///< among the sequences of that source
  };

  /// An endless sequence with shares in proportion to `weights` (positive, finite; exact to 2^-53), phases drawn by
  /// seed.
  static Mixture endless(const std::vector<double>& weights, std::uint64_t seed);

  /// A sequence that ends, in which each source has exactly `counts` (positive) places.
  static Mixture finite(const std::vector<std::uint64_t>& counts);

  Place place(std::uint64_t n) const;

  /// How many of the first n sequences are of each source; n at most 2^63.
  std::vector<std::uint64_t> counts(std::uint64_t n) const;

 private:
  /// A source against all after it: it has floor((n share + phase) / whole) of n.
  struct Split {
    std::uint64_t share = 0;
    std::uint64_t whole = 0;  ///< 0: 2^64
    std::uint64_t phase = 0;
    std::uint64_t of(std::uint64_t n) const;
  };
  std::vector<Split> splits_;  ///< of all sources but the last, which has the rest
};

}  // namespace braise::data
