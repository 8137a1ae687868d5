// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/random_fill.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "tests/support/tensors.h"

namespace braise::test {
namespace {

const core::RandomStream kRandom(42, core::Purpose::kInitialisation, core::name_hash("h.0.attention.query"));

std::vector<double> filled(bool normal, core::Dtype dtype, std::uint64_t first, std::int64_t count, float a, float b) {
  Bench bench;
  TestTensor tensor(dtype, {count});
  if (normal) {
    core::fill_normal(bench.stream(), tensor.view(), kRandom, first, a, b);
  } else {
    core::fill_uniform(bench.stream(), tensor.view(), kRandom, first, a, b);
  }
  CHECK(tensor.intact());
  return tensor.values();
}

TEST_CASE("many random words are the words of the stream") {
  for (const std::uint64_t first : {0ull, 1ull, 2ull, 3ull, 7ull, (1ull << 34) - 5, ~0ull - 2000}) {
    for (const std::size_t count : {0, 1, 2, 3, 4, 5, 31, 32, 33, 1000}) {
      std::vector<std::uint32_t> words(count + 1, 0xabcdef01u);
      core::random_words(kRandom, first, std::span(words).first(count));
      bool right = words.back() == 0xabcdef01u;
      for (std::size_t i = 0; i < count; ++i) right = right && words[i] == kRandom.word(first + i);
      CHECK(right);
    }
  }
}

TEST_CASE("uniform and normal fills follow their formulas") {
  const std::uint64_t first = (1ull << 33) + 1;
  const std::int64_t count = 20001;
  std::vector<double> uniform;
  std::vector<double> normal;
  std::vector<double> radii;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t element = first + static_cast<std::uint64_t>(i);
    uniform.push_back(-2.0 + 5.0 * core::uniform(kRandom.word(element)));
    const double radius = std::sqrt(-2 * std::log((kRandom.word(element & ~1ull) + 0.5) * 0x1p-32));
    radii.push_back(radius);
    const double angle = 2 * std::numbers::pi * core::uniform(kRandom.word(element | 1));
    normal.push_back(0.25 + 1.5 * radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle)));
  }
  for (const core::Dtype dtype : {core::Dtype::kFloat32, core::Dtype::kBfloat16, core::Dtype::kFloat16}) {
    const double u = unit_roundoff(dtype);
    check_close(filled(false, dtype, first, count, -2.0f, 3.0f), uniform, 0x1p-24 + u,
                dtype == core::Dtype::kFloat32 ? 0 : 0x1p-25);
    // z has a few units of its radius. Also, v is rounded to fp32: where it is near 1, by 2^-25, which moves the
    // logarithm by as much and its root by that over the root, and never by more than the root of twice that.
    check_close(
        filled(true, dtype, first, count, 0.25f, 1.5f), normal,
        [&](std::size_t i) {
          return u * std::abs(normal[i]) + 1.5 * (8 * 0x1p-24 * radii[i] + 0x1p-24 / std::max(radii[i], 0x1p-12));
        },
        "normal");
  }
}

TEST_CASE("fills have the same bits for every thread count, tier and split") {
  const core::Tier before = core::tier();
  for (const bool normal : {false, true}) {
    const std::vector<double> whole = filled(normal, core::Dtype::kFloat32, 5, 5000, 0.5f, 2.0f);
    with_threads([&](int) { CHECK(filled(normal, core::Dtype::kFloat32, 5, 5000, 0.5f, 2.0f) == whole); });
    for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2}) {
      if (tier > before) continue;
      core::pin_tier(tier);
      CHECK(filled(normal, core::Dtype::kFloat32, 5, 5000, 0.5f, 2.0f) == whole);
    }
    core::pin_tier(before);
    for (const std::int64_t cut : {1, 2, 7, 1019, 1020, 4999}) {
      std::vector<double> parts = filled(normal, core::Dtype::kFloat32, 5, cut, 0.5f, 2.0f);
      const auto rest =
          filled(normal, core::Dtype::kFloat32, 5 + static_cast<std::uint64_t>(cut), 5000 - cut, 0.5f, 2.0f);
      parts.insert(parts.end(), rest.begin(), rest.end());
      CHECK(parts == whole);
    }
  }
}

TEST_CASE("a normal fill has the moments and the tails of the normal distribution") {
  const std::int64_t count = 1 << 20;
  const std::vector<double> values = filled(true, core::Dtype::kFloat32, 0, count, 0.0f, 1.0f);
  double sum = 0;
  double squares = 0;
  double fourths = 0;
  double neighbours = 0;
  std::int64_t beyond_three = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double square = values[i] * values[i];
    sum += values[i];
    squares += square;
    fourths += square * square;
    neighbours += values[i] * values[i ^ 1];
    if (square > 9) ++beyond_three;
  }
  // Within five standard errors; those of x, x^2, x^4 and x y are 1, sqrt 2, sqrt 96 and 1, over sqrt n = 1024.
  const auto n = static_cast<double>(count);
  CHECK(std::abs(sum / n) < 5.0 / 1024);
  CHECK(std::abs(squares / n - 1) < 5.0 * std::sqrt(2) / 1024);
  CHECK(std::abs(fourths / n - 3) < 5.0 * std::sqrt(96) / 1024);
  CHECK(std::abs(neighbours / n) < 5.0 * std::sqrt(2) / 1024);  // each product is counted twice
  const double expected = n * std::erfc(3 / std::numbers::sqrt2);
  CHECK(std::abs(static_cast<double>(beyond_three) - expected) < 5.0 * std::sqrt(expected));
}

TEST_CASE("a fill refuses what it cannot fill") {
  Bench bench;
  TestTensor words(core::Dtype::kInt32, {4});
  CHECK_THROWS_AS(core::fill_normal(bench.stream(), words.view(), kRandom, 0, 0, 1), core::Error);
  TestTensor padded(core::Dtype::kFloat32, {4, 5}, Layout::kPaddedRows);
  CHECK_THROWS_AS(core::fill_uniform(bench.stream(), padded.view(), kRandom, 0, 0, 1), core::Error);
  CHECK_THROWS_AS(core::fill_uniform(bench.stream(), core::TensorView(), kRandom, 0, 0, 1), core::Error);
  CHECK(filled(true, core::Dtype::kBfloat16, 3, 0, 0, 1).empty());
}

}  // namespace
}  // namespace braise::test
