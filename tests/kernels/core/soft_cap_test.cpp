// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/soft_cap.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;

TEST_CASE("a soft cap is within rounding of its definition, on any number of threads") {
  Bench bench;
  for (const float cap : {0.5f, 30.0f, 1e4f}) {
    for (const Shape& shape : {Shape{}, Shape{0, 5}, Shape{1}, Shape{3, 17}, Shape{5, 4999}}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
        std::vector<double> values = random_values(shape, Dtype::kFloat32, 8, 70);
        const double special[] = {0, -0.0, 1e-40, 3e38, -3e38};
        for (std::size_t i = 0; i < std::min(std::size(special), values.size()); ++i) values[i] = special[i];
        std::vector<double> expected;
        for (const double value : values) {
          expected.push_back(static_cast<double>(cap) * std::tanh(value / static_cast<double>(cap)));
        }
        std::string first;
        with_threads([&](int) {
          const TestTensor x(Dtype::kFloat32, shape, values, layout);
          soft_cap(bench.stream(), x.view(), cap);
          // The argument is rounded twice, which costs less than the function's own few roundings; the result once.
          check_close(x.values(), expected, [&](std::size_t i) { return 8 * 0x1p-24 * std::abs(expected[i]) + 1e-40; });
          CHECK(x.intact());
          if (first.empty()) first = x.bytes();
          CHECK(x.bytes() == first);
        });
      }
    }
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const TestTensor ends(Dtype::kFloat32, Shape{3}, {static_cast<double>(kInfinity), -static_cast<double>(kInfinity), NAN});
  soft_cap(bench.stream(), ends.view(), 30.0f);
  CHECK(ends.values()[0] == 30);
  CHECK(ends.values()[1] == -30);
  CHECK(std::isnan(ends.values()[2]));
  CHECK_THROWS_AS(soft_cap(bench.stream(), ends.view(), 0.0f), Error);
  const TestTensor half(Dtype::kBfloat16, Shape{2});
  CHECK_THROWS_AS(soft_cap(bench.stream(), half.view(), 1.0f), Error);
}
