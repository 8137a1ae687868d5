// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/permutation.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "stages/shared/data/draw.h"

namespace braise::data {
namespace {

core::RandomStream stream(std::uint64_t seed, std::uint64_t epoch = 0) {
  return Draw{seed, 0}.stream(epoch, Use::kWindowOrder);
}

TEST_CASE("every number comes exactly once") {
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t n = 1; n <= 700; ++n) sizes.push_back(n);
  for (const std::uint64_t root : {64, 255, 256, 257, 500}) {
    for (const std::uint64_t n : {root * root - 1, root * root, root * root + 1, root * (root + 1)}) sizes.push_back(n);
  }
  for (const std::uint64_t n : sizes) {
    const Permutation order(stream(n), n);
    std::vector<bool> seen(n, false);
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t value = order(i);
      if (value >= n || seen[value]) FAIL("size " << n << ": " << value << " at place " << i);
      seen[value] = true;
    }
  }
}

TEST_CASE("sizes near the largest stay in range and do not collide") {
  for (const std::uint64_t n : {std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
                                std::uint64_t{0xffffffffu} * 0xffffffffu, (std::uint64_t{1} << 32) + 1}) {
    const Permutation order(stream(1), n);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      seen.insert(order(i));
      seen.insert(order(n - 1 - i));
    }
    CHECK(seen.size() == 2000);
    CHECK(*seen.rbegin() < n);
    // Not all in one part.
    CHECK(*seen.begin() < n / 50);
    CHECK(*seen.rbegin() > n - n / 50);
  }
}

TEST_CASE("all orders of few numbers are about as frequent") {
  // 4! = 24 orders, 24,000 epochs: each 1000 times, standard deviation 31.
  std::map<std::vector<std::uint64_t>, int> counts;
  for (std::uint64_t epoch = 0; epoch < 24000; ++epoch) {
    const Permutation order(stream(5, epoch), 4);
    ++counts[{order(0), order(1), order(2), order(3)}];
  }
  REQUIRE(counts.size() == 24);
  double chi_square = 0;
  for (const auto& [order, count] : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  CHECK(chi_square < 60);  // 23 degrees of freedom: exceeded by chance once in 30,000
}

TEST_CASE("each number is equally likely at each place") {
  for (const std::uint64_t n : {7, 100}) {
    constexpr int kEpochs = 20000;
    std::vector<int> at_first(n), at_last(n), steps(n);
    for (std::uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
      const Permutation order(stream(9, epoch), n);
      ++at_first[order(0)];
      ++at_last[order(n - 1)];
      ++steps[(order(1) + n - order(0)) % n];
    }
    const auto chi_square = [&](const std::vector<int>& counts, std::uint64_t cells) {
      const double expected = static_cast<double>(kEpochs) / static_cast<double>(cells);
      double sum = 0;
      for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
      return sum;
    };
    const double limit = static_cast<double>(n) + 6 * std::sqrt(2 * static_cast<double>(n));
    CHECK(chi_square(at_first, n) < limit);
    CHECK(chi_square(at_last, n) < limit);
    CHECK(steps[0] == 0);
    // The empty cell adds what was expected there.
    CHECK(chi_square({steps.begin() + 1, steps.end()}, n - 1) < limit);
  }
}

TEST_CASE("an order is another for each seed, epoch, source and use") {
  const auto first = [](const core::RandomStream& random) {
    const Permutation order(random, 1 << 20);
    return std::vector<std::uint64_t>{order(0), order(1), order(2)};
  };
  std::set<std::vector<std::uint64_t>> seen;
  for (const std::uint64_t seed : {1, 2}) {
    for (const std::uint64_t source : {0, 1}) {
      for (const std::uint64_t epoch : {0, 1, 2}) {
        for (const Use use : {Use::kWindowOrder, Use::kSequenceOrder}) {
          for (const std::uint64_t detail : {0, 1}) seen.insert(first(Draw{seed, source}.stream(epoch, use, detail)));
        }
      }
    }
  }
  CHECK(seen.size() == 2 * 2 * 3 * 2 * 2);
}

TEST_CASE("orders are part of the reproducible result") {
  // Computed apart from this code, in Python.
  const Permutation order(Draw{1337, 0}.stream(3, Use::kWindowOrder), 1000);
  std::vector<std::uint64_t> values;
  for (std::uint64_t i = 0; i < 8; ++i) values.push_back(order(i));
  CHECK(values == std::vector<std::uint64_t>{664, 185, 992, 486, 489, 531, 818, 323});
}

}  // namespace
}  // namespace braise::data
