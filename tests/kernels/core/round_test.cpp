// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/round.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;

TEST_CASE("rounding in place gives what a copy to the dtype and back gives, and touches nothing else") {
  Bench bench;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const Shape& shape : {Shape{0}, Shape{}, Shape{1}, Shape{3, 7}, Shape{33, 129}, Shape{3, 4999}}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
        std::vector<double> values = random_values(shape, Dtype::kFloat32, 5, 3.0);
        const double special[] = {-0.0, kInfinity, -kInfinity, 3.39e38, 65520, 1e-45, 1.00390625};
        for (std::size_t i = 0; i < std::min(std::size(special), values.size()); ++i) {
          values[values.size() - 1 - i] = special[i];
        }
        TestTensor x(Dtype::kFloat32, shape, values, layout), narrow(dtype, shape), expected(Dtype::kFloat32, shape);
        copy(bench.stream(), narrow.view(), x.view());
        copy(bench.stream(), expected.view(), narrow.view());
        round_to(bench.stream(), x.view(), dtype);
        const std::vector<double> got = x.values(), wanted = expected.values();
        CHECK(got == wanted);
        for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(std::signbit(got[i]) == std::signbit(wanted[i]));
        CHECK(x.intact());
      }
    }
  }
  const TestTensor half(Dtype::kBfloat16, Shape{2}), whole(Dtype::kFloat32, Shape{2});
  CHECK_THROWS_WITH(round_to(bench.stream(), half.view(), Dtype::kBfloat16), Catch::Contains("round_to: x is bf16[2]"));
  CHECK_THROWS_AS(round_to(bench.stream(), whole.view(), Dtype::kInt8), Error);
}
