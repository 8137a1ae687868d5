// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/reduce.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/tensors.h"

using namespace braise;
using core::Dtype;
using core::Shape;

namespace {

/// What the header says, one operation after another.
std::vector<double> spelled_out(const std::vector<double>& x) {
  std::vector<double> sums;
  for (std::size_t begin = 0; begin < x.size(); begin += core::kReductionBlock) {
    double s[8] = {};
    for (std::size_t i = begin; i < std::min<std::size_t>(begin + core::kReductionBlock, x.size()); ++i) {
      s[(i - begin) % 8] += x[i] * x[i];
    }
    sums.push_back(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
  }
  return sums;
}

std::vector<double> block_sums(const core::ConstTensorView& x) {
  test::Bench bench;
  std::vector<double> sums(static_cast<std::size_t>(core::reduction_blocks(x.elements())), std::nan(""));
  core::block_sums_of_squares(bench.stream(), sums, x);
  return sums;
}

/// A tree made level by level.
double tree(std::vector<double> terms) {
  if (terms.empty()) return 0;
  while (terms.size() > 1) {
    std::vector<double> next;
    for (std::size_t i = 0; i < terms.size(); i += 2) {
      next.push_back(i + 1 < terms.size() ? terms[i] + terms[i + 1] : terms[i]);
    }
    terms = next;
  }
  return terms[0];
}

}  // namespace

TEST_CASE("block sums are those of the header, to the bit, with any number of threads") {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const std::int64_t count : {0, 1, 3, 7, 8, 9, 17, 4095, 4096, 4097, 4 * 4096, 9 * 4096 + 33, 70001}) {
      const Shape shape{count};
      const auto values = test::random_values(shape, dtype, static_cast<std::uint64_t>(count) + 1, 100.0);
      const test::TestTensor x(dtype, shape, values);
      const std::vector<double> expected = spelled_out(values);
      test::with_threads([&](int) { CHECK(block_sums(x.view()) == expected); });
    }
  }
}

TEST_CASE("block sums of extreme values") {
  const double inf = std::numeric_limits<double>::infinity();
  std::vector<double> values(5000, 3e38);
  values[1] = 1e-45;
  const Shape shape{5000};
  CHECK(block_sums(test::TestTensor(Dtype::kFloat32, shape, values).view()) ==
        spelled_out(test::TestTensor(Dtype::kFloat32, shape, values).values()));
  values[4096] = -inf;
  CHECK(block_sums(test::TestTensor(Dtype::kFloat32, shape, values).view())[1] == inf);
  values[3] = std::nan("");
  const auto sums = block_sums(test::TestTensor(Dtype::kFloat32, shape, values).view());
  CHECK(std::isnan(sums[0]));
  CHECK(sums[1] == inf);
  CHECK(block_sums(test::TestTensor(Dtype::kFloat32, Shape{2}, {1e-45, 1e-45}).view())[0] == std::ldexp(1.0, -297));
}

TEST_CASE("a tree sum adds neighbours, level by level") {
  CHECK(core::tree_sum({}) == 0.0);
  for (std::size_t count = 1; count < 140; ++count) {
    const auto terms = test::random_values(Shape{static_cast<std::int64_t>(count)}, Dtype::kFloat32, count, 1.0);
    std::vector<double> uneven(terms);
    for (std::size_t i = 0; i < count; ++i) uneven[i] *= std::pow(3.0, static_cast<double>(i % 40));
    CHECK(core::tree_sum(uneven) == tree(uneven));
  }
  // An aligned part of the terms is one node.
  std::vector<double> terms = test::random_values(Shape{13}, Dtype::kFloat32, 5);
  const double whole = core::tree_sum(terms);
  const double part = core::tree_sum(std::span<const double>(terms).subspan(4, 4));
  std::vector<double> with_node{core::tree_sum(std::span<const double>(terms).first(4)), part,
                                core::tree_sum(std::span<const double>(terms).subspan(8, 4)), terms[12]};
  CHECK(core::tree_sum(with_node) == whole);
}

TEST_CASE("block sums refuse what they cannot read") {
  test::Bench bench;
  std::vector<double> sums(1);
  const test::TestTensor padded(Dtype::kFloat32, Shape{2, 3}, test::Layout::kPaddedRows);
  CHECK_THROWS_WITH(core::block_sums_of_squares(bench.stream(), sums, padded.view()),
                    "block_sums_of_squares: x is fp32[2 x 3] with strides 6 x 1, not a contiguous tensor of fp32, bf16 "
                    "or fp16");
  const test::TestTensor x(Dtype::kFloat32, Shape{5000});
  CHECK_THROWS_WITH(core::block_sums_of_squares(bench.stream(), sums, x.view()),
                    "block_sums_of_squares: sums has 1 values, not 2, the blocks of fp32[5000]");
}
