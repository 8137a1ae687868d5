// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/dropout.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "tests/support/tensors.h"

namespace braise::test {
namespace {

using core::Accumulate;
using core::Dtype;
const core::RandomStream kRandom(7, core::Purpose::kDropout, 12, 3, 1);

TEST_CASE("dropout keeps, scales and drops what its stream says") {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const double probability : {0.0, 0.1, 0.5, 0.97, 1 - 0x1p-40}) {
      for (const core::Shape& shape : {core::Shape{1}, {2, 7}, {3, 1500}, {0, 4}}) {
        for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
          const std::uint64_t first = 0x100000002ull;
          const auto x = random_values(shape, dtype, 41, 0x1p-25);  // so that the largest scale fits fp16
          const auto old = random_values(shape, dtype, 42);
          Bench bench;
          const TestTensor x_tensor(dtype, shape, x, layout);
          const TestTensor y(dtype, shape, layout);
          TestTensor sum(dtype, shape, layout);
          sum.set(old);
          auto& stream = bench.stream();
          activation::dropout(stream, y.view(), x_tensor.view(), probability, kRandom, first);
          activation::dropout(stream, sum.view(), x_tensor.view(), probability, kRandom, first, Accumulate::kAdd);
          CHECK((y.intact() && sum.intact()));
          std::vector<double> expected;
          std::vector<double> expected_sum;
          const auto scale = static_cast<float>(1 / (1 - probability));
          for (std::size_t i = 0; i < x.size(); ++i) {
            const bool kept = kRandom.word(first + i) >= std::fmin(std::round(probability * 0x1p32), 0x1p32 - 1);
            const float product = static_cast<float>(x[i]) * scale;
            expected.push_back(kept ? rounded(product, dtype) : 0);
            expected_sum.push_back(rounded(static_cast<float>(old[i]) + (kept ? product : 0.0f), dtype));
          }
          CHECK(y.values() == expected);
          CHECK(sum.values() == expected_sum);
        }
      }
    }
  }
}

TEST_CASE("dropout drops the wanted share, even of NaN") {
  Bench bench;
  const core::Shape shape{1 << 18};
  const TestTensor x(Dtype::kFloat32, shape);  // all NaN
  const TestTensor y(Dtype::kFloat32, shape);
  activation::dropout(bench.stream(), y.view(), x.view(), 0.25, kRandom, 0);
  std::int64_t zeros = 0;
  for (const double value : y.values()) zeros += value == 0;
  // A binomial count: 65536 within five standard deviations of 222.
  CHECK(std::abs(zeros - 65536) < 5 * 222);
}

TEST_CASE("dropout does not depend on threads, tier, place or split") {
  const core::Shape shape{3, 2050};
  const auto x = random_values(shape, Dtype::kBfloat16, 51);
  const auto run = [&](Layout layout, std::int64_t cut) {
    Bench bench;
    const TestTensor tensor(Dtype::kBfloat16, shape, x, layout);
    const auto part = [&](std::int64_t begin, std::int64_t end) {
      const auto view = tensor.view().slice(0, begin, end);
      activation::dropout(bench.stream(), view, view, 0.3, kRandom, static_cast<std::uint64_t>(begin * 2050));
    };
    part(0, cut);
    part(cut, 3);
    CHECK(tensor.intact());
    return tensor.values();
  };
  const auto expected = run(Layout::kContiguous, 3);
  with_threads([&](int) { CHECK(run(Layout::kContiguous, 3) == expected); });
  CHECK(run(Layout::kPaddedRows, 3) == expected);
  CHECK(run(Layout::kContiguous, 1) == expected);
  const core::Tier before = core::tier();
  for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2}) {
    if (tier > before) continue;
    core::pin_tier(tier);
    CHECK(run(Layout::kContiguous, 3) == expected);
  }
  core::pin_tier(before);
}

TEST_CASE("dropout refuses what is no probability") {
  Bench bench;
  const TestTensor x(Dtype::kFloat32, {4});
  for (const double probability : {-0.1, 1.0, std::nan("")}) {
    CHECK_THROWS_AS(activation::dropout(bench.stream(), x.view(), x.view(), probability, kRandom, 0), core::Error);
  }
}

}  // namespace
}  // namespace braise::test
