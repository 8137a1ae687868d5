// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/mixture.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <vector>

namespace braise::data {
namespace {

const std::vector<std::vector<double>> kWeights = {
    {1},        {1, 1}, {0.5, 0.25, 0.25}, {1e-3, 1}, {3, 0.1, 7, 1e-6, 2.5}, {1, 1, 1, 1, 1, 1, 1}, {1e300, 1e300},
    {1, 1e-300}};

TEST_CASE("places follow from each other, one source at a time, with shares that never stray") {
  for (const std::vector<double>& weights : kWeights) {
    const Mixture mixture = Mixture::endless(weights, 42);
    double sum = 0;
    for (const double weight : weights) sum += weight / weights[0];
    std::vector<std::uint64_t> counts(weights.size());
    for (std::uint64_t n = 0; n < 20000; ++n) {
      if (mixture.counts(n) != counts) FAIL("counts before " << n);
      const Mixture::Place place = mixture.place(n);
      if (place.index != counts[place.source]) FAIL("place " << n);
      ++counts[place.source];
      for (std::size_t k = 0; k < weights.size(); ++k) {
        const double expected = static_cast<double>(n + 1) * (weights[k] / weights[0]) / sum;
        if (std::abs(static_cast<double>(counts[k]) - expected) >= static_cast<double>(weights.size()))
          FAIL("source " << k << " has " << counts[k] << " of " << n + 1 << ", not about " << expected);
      }
    }
  }
}

TEST_CASE("shares are exact in the long run") {
  const Mixture mixture = Mixture::endless({0.5, 0.25, 0.25}, 7);
  for (const std::uint64_t n : {std::uint64_t{1} << 40, std::uint64_t{1} << 62}) {
    const std::vector<std::uint64_t> counts = mixture.counts(n);
    CHECK(counts[0] == n / 2);
    CHECK(counts[1] == n / 4);
    CHECK(counts[2] == n / 4);
  }
  const std::vector<std::uint64_t> thirds = Mixture::endless({1, 1, 1}, 7).counts(std::uint64_t{3} << 50);
  for (const std::uint64_t count : thirds)
    CHECK(std::llabs(static_cast<long long>(count - (std::uint64_t{1} << 50))) <= 2);
}

TEST_CASE("the seed moves where a source begins, and nothing else does") {
  const auto pattern = [](std::uint64_t seed) {
    const Mixture mixture = Mixture::endless({0.9, 0.1}, seed);
    std::vector<std::size_t> sources;
    for (std::uint64_t n = 0; n < 100; ++n) sources.push_back(mixture.place(n).source);
    return sources;
  };
  CHECK(pattern(1) == pattern(1));
  CHECK(pattern(1) != pattern(2));
}

TEST_CASE("a sequence that ends gives every source all its places, evenly spread") {
  for (const std::vector<std::uint64_t>& counts :
       std::vector<std::vector<std::uint64_t>>{{5}, {1, 1}, {1, 99}, {70, 1, 29}, {3, 3, 3, 1}}) {
    const Mixture mixture = Mixture::finite(counts);
    const std::uint64_t all = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
    CHECK(mixture.counts(all) == counts);
    std::vector<std::uint64_t> seen(counts.size());
    for (std::uint64_t n = 0; n < all; ++n) {
      const Mixture::Place place = mixture.place(n);
      CHECK(place.index == seen[place.source]);
      ++seen[place.source];
      for (std::size_t k = 0; k < counts.size(); ++k) {
        const double expected = static_cast<double>((n + 1) * counts[k]) / static_cast<double>(all);
        CHECK(std::abs(static_cast<double>(seen[k]) - expected) < static_cast<double>(counts.size()));
      }
    }
    CHECK(seen == counts);
  }
}

}  // namespace
}  // namespace braise::data
