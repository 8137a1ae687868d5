// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace braise::data {

std::uint64_t Mixture::Split::of(std::uint64_t n) const {
  __extension__ using Wide = unsigned __int128;
  const Wide product = Wide{n} * share + phase;
  return static_cast<std::uint64_t>(whole == 0 ? product >> 64 : product / whole);
}

Mixture Mixture::endless(const std::vector<double>& weights, std::uint64_t seed) {
  constexpr double kWhole = 0x1p64;
  const double largest = *std::max_element(weights.begin(), weights.end());
  Mixture mixture;
  double rest = 0;
  for (std::size_t k = weights.size(); k-- > 0;) {
    const double weight = weights[k] / largest;
    rest += weight;
    if (k + 1 == weights.size()) continue;
    const double share = std::max(weight / rest * kWhole, 1.0);
    mixture.splits_.push_back(
        {share >= kWhole ? std::numeric_limits<std::uint64_t>::max() : static_cast<std::uint64_t>(share), 0,
         bits_at(Draw{seed, k}.stream(0, Use::kMixture), 0)});
  }
  std::reverse(mixture.splits_.begin(), mixture.splits_.end());
  return mixture;
}

Mixture Mixture::finite(const std::vector<std::uint64_t>& counts) {
  Mixture mixture;
  std::uint64_t rest = 0;
  for (std::size_t k = counts.size(); k-- > 0;) {
    rest += counts[k];
    if (k + 1 < counts.size()) mixture.splits_.push_back({counts[k], rest, 0});
  }
  std::reverse(mixture.splits_.begin(), mixture.splits_.end());
  return mixture;
}

Mixture::Place Mixture::place(std::uint64_t n) const {
  for (std::size_t k = 0; k < splits_.size(); ++k) {
    const std::uint64_t before = splits_[k].of(n);
    if (splits_[k].of(n + 1) > before) return {k, before};
    n -= before;
  }
  return {splits_.size(), n};
}

std::vector<std::uint64_t> Mixture::counts(std::uint64_t n) const {
  std::vector<std::uint64_t> counts;
  for (const Split& split : splits_) {
    counts.push_back(split.of(n));
    n -= counts.back();
  }
  counts.push_back(n);
  return counts;
}

}  // namespace braise::data
