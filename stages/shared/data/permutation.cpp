// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/permutation.h"

#include <cassert>
#include <cmath>

#include "stages/shared/data/draw.h"

namespace braise::data {
namespace {

constexpr std::uint64_t kRounds = 8;

/// The smallest a with a * a >= n, for n from 1 to 2^63.
std::uint64_t root_above(std::uint64_t n) {
  auto a = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(n)));
  while (a * a < n) ++a;
  while ((a - 1) * (a - 1) >= n) --a;
  return a;
}

}  // namespace

Permutation::Permutation(const core::RandomStream& random, std::uint64_t n) : random_(random), n_(n) {
  assert(n >= 1 && n <= std::uint64_t{1} << 63);
  low_ = root_above(n);
  high_ = (n - 1) / low_ + 1;
}

std::uint64_t Permutation::operator()(std::uint64_t i) const {
  assert(i < n_);
  do {
    std::uint64_t low = i % low_;
    std::uint64_t high = i / low_;
    // A half is below 2^32, so each round has blocks of its own.
    for (std::uint64_t round = 0; round < kRounds; round += 2) {
      low = (low + below(bits_at(random_, round << 32 | high), low_)) % low_;
      high = (high + below(bits_at(random_, (round + 1) << 32 | low), high_)) % high_;
    }
    i = high * low_ + low;
  } while (i >= n_);
  return i;
}

}  // namespace braise::data
