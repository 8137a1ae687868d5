// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/random.h"

namespace braise::data {

/// A random order of the numbers below n that needs no memory: a Feistel network of eight rounds on the pairs (x mod a,
/// x / a), a = ceil(sqrt(n)), whose halves are in turn shifted by a Philox function of the other half; where a result
/// is not below n it goes in again ("cycle walking"), which happens to fewer than one number in a.
/// Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 5.
class Permutation {
 public:
  Permutation(const core::RandomStream& random, std::uint64_t n);

  std::uint64_t size() const { return n_; }

  /// The number at place i; i below size().
  std::uint64_t operator()(std::uint64_t i) const;

 private:
  core::RandomStream random_;
  std::uint64_t n_;
  std::uint64_t low_;   ///< a
  std::uint64_t high_;  ///< ceil(n / a)
};

}  // namespace braise::data
