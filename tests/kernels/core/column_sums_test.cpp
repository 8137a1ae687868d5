// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/column_sums.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;

TEST_CASE("column sums are within rounding of the definition, and the same on any number of threads") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{0, 3},
                                        {1, 1},
                                        {3, 7},
                                        {32, 33},
                                        {33, 17},
                                        {129, 600},
                                        {1000, 5},
                                        {4, 0}}) {
      const std::vector<double> x = random_values(Shape{rows, columns}, dtype, 3);
      const std::vector<double> before = random_values(Shape{columns}, Dtype::kFloat32, 4);
      const TestTensor input(dtype, Shape{rows, columns}, x, Layout::kPaddedRows);
      std::vector<double> expected = before;
      std::vector<double> bound(before.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        expected[i % before.size()] += x[i];
        bound[i % before.size()] += std::abs(x[i]);
      }
      std::string first;
      with_threads([&](int) {
        const TestTensor sums(Dtype::kFloat32, Shape{columns}, before);
        add_column_sums(bench.stream(), sums.view(), input.view());
        // At most 31 additions in a block, 5 levels of its tree for a thousand rows, and the one to what is there.
        check_close(sums.values(), expected,
                    [&](std::size_t i) { return 38 * 0x1p-24 * (bound[i] + std::abs(before[i])); });
        CHECK(sums.intact());
        if (first.empty()) first = sums.bytes();
        CHECK(sums.bytes() == first);
      });
    }
  }
  const TestTensor x(Dtype::kFloat32, Shape{2, 3});
  CHECK_THROWS_WITH(add_column_sums(bench.stream(), x.view(), x.view()),
                    Catch::Contains("sums is fp32[2 x 3], not fp32[3]"));
}
