// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/random.h"

#include <catch2/catch.hpp>
#include <set>
#include <vector>

using namespace braise::core;

TEST_CASE("philox gives the published known answers") {
  // Random123, kat_vectors: philox 4x32, 10 rounds.
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("streams differ by seed, purpose and every part of the position") {
  std::set<std::array<std::uint32_t, 2>> keys;
  std::size_t made = 0;
  for (const std::uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull}) {
    for (const Purpose purpose : {Purpose::kInitialisation, Purpose::kDropout, Purpose::kData, Purpose::kSampling}) {
      for (std::uint64_t i = 0; i < 4; ++i) {
        for (std::uint64_t j = 0; j < 4; ++j) {
          for (std::uint64_t k = 0; k < 4; ++k) {
            keys.insert(RandomStream(seed, purpose, i, j << 31, k).key());
            ++made;
          }
        }
      }
    }
  }
  CHECK(keys.size() == made);
}

TEST_CASE("a stream is read at any place, and its words look uniform") {
  const RandomStream stream(1337, Purpose::kDropout, 3, 1, 4);
  CHECK(stream.word(9) == stream.block(2)[1]);
  constexpr int kBins = 64;
  constexpr int kDraws = 1 << 18;
  std::vector<int> counts(kBins);
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const float value = uniform(stream.word(static_cast<std::uint64_t>(i)));
    REQUIRE(value >= 0);
    REQUIRE(value < 1);
    sum += value;
    ++counts[static_cast<std::size_t>(value * kBins)];
  }
  CHECK(sum / kDraws == Approx(0.5).margin(4 * 0.2887 / 512));  // four standard errors
  double chi_squared = 0;
  const double expected = static_cast<double>(kDraws) / kBins;
  for (const int count : counts) chi_squared += (count - expected) * (count - expected) / expected;
  CHECK(chi_squared < 120);  // 63 degrees of freedom: mean 63, standard deviation 11.2
}

TEST_CASE("the values of streams never change") {
  // Written down once: a change of any of them changes every run's bits.
  CHECK(name_hash("wte.weight") == 0x61d3a46d83bc4189ull);
  CHECK(RandomStream(1337, Purpose::kInitialisation, name_hash("wte.weight")).word(0) == 0xe23fb3efu);
}
