// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/int8_matmul.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <set>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "kernels/quant/int8_matmul_cpu.h"
#include "kernels/quant/quantize.h"
#include "tests/kernels/reference/quant.h"
#include "tests/support/tensors.h"

namespace braise {
namespace {

using core::Dtype;
using core::Shape;
using reference::Quantized;
using test::Bench;
using test::Layout;
using test::TestTensor;

std::int64_t groups_of(std::int64_t depth, std::int64_t group) {
  return (depth + group - 1) / group;
}

/// Any int8, the lowest too, with scales of both signs.
Quantized random_integers(std::int64_t rows, std::int64_t depth, std::int64_t group, std::uint64_t seed) {
  Quantized random;
  random.q = test::random_values({rows, depth}, Dtype::kFloat32, seed, 128);
  for (double& value : random.q) value = std::floor(value);
  random.scales = test::random_values({rows, groups_of(depth, group)}, Dtype::kFloat32, seed + 1, 0.1);
  return random;
}

struct Operands {
  std::int64_t rows, depth, columns, group;
  Quantized x, b;

  Operands(std::int64_t m, std::int64_t k, std::int64_t n, std::int64_t of, std::uint64_t seed)
      : rows(m),
        depth(k),
        columns(n),
        group(of),
        x(random_integers(m, k, of, seed)),
        b(random_integers(n, k, of, seed + 2)) {}

  std::vector<double> spelled() const {
    return reference::int8_matmul_as_spelled(x, b, static_cast<std::size_t>(rows), static_cast<std::size_t>(depth),
                                             static_cast<std::size_t>(columns), static_cast<std::size_t>(group));
  }
  reference::IntegerProduct exact() const {
    return reference::int8_matmul(x, b, static_cast<std::size_t>(rows), static_cast<std::size_t>(depth),
                                  static_cast<std::size_t>(columns), static_cast<std::size_t>(group));
  }

  quant::PackedInt8 packed(Bench& bench, Layout layout = Layout::kContiguous) const {
    quant::PackedInt8 packed(bench.arena(), depth, columns, group, core::Category::kParameters, "test");
    packed.pack(bench.stream(), TestTensor(Dtype::kInt8, {columns, depth}, b.q, layout).view(),
                TestTensor(Dtype::kFloat32, {columns, groups_of(depth, group)}, b.scales, layout).view());
    return packed;
  }

  /// Checked to the bit, and against the exact sums within what roundings can do.
  void check(Dtype dtype, Layout layout) const {
    CAPTURE(rows, depth, columns, group, core::name(dtype), layout == Layout::kPaddedRows);
    Bench bench;
    const quant::PackedInt8 right = packed(bench, layout);
    const TestTensor left(Dtype::kInt8, {rows, depth}, x.q, layout);
    const TestTensor scales(Dtype::kFloat32, {rows, groups_of(depth, group)}, x.scales, layout);
    TestTensor y(dtype, {rows, columns}, layout);
    quant::int8_matmul(bench.stream(), y.view(), left.view(), scales.view(), right);
    CHECK(y.intact());
    std::vector<double> expected = spelled();
    for (double& value : expected) value = test::rounded(value, dtype);
    test::check_close(y.values(), expected, 0, 0, "as spelled out");
    const auto [sums, magnitudes] = exact();
    // Each term: of the scales, of a dot product of 2^24 or more, and one for each addition behind it.
    const double u = test::unit_roundoff(Dtype::kFloat32);
    const double roundings = static_cast<double>(groups_of(depth, group) + 2);
    const double relative = roundings * u / (1 - roundings * u);
    test::check_close(
        y.values(), sums,
        [&, &sums = sums, &magnitudes = magnitudes](std::size_t i) {
          const double error = relative * magnitudes[i];
          return error + test::rounding_error(std::abs(sums[i]) + error, dtype);
        },
        "exact sums");
  }
};

TEST_CASE("products of integers are the reference's, to the bit and within rounding") {
  std::uint64_t seed = 100;
  for (const std::int64_t depth : {1, 3, 4, 7, 17, 33, 64, 129, 300}) {
    for (const std::int64_t group : {1, 3, 4, 32, 33, 128, 1000}) {
      const std::array<std::int64_t, 7> rows{1, 2, 3, 5, 6, 7, 33}, columns{1, 15, 16, 17, 32, 33, 129};
      const Operands operands(rows[seed % 7], depth, columns[seed / 7 % 7], group, seed);
      operands.check(std::array{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}[seed % 3],
                     seed % 2 == 0 ? Layout::kContiguous : Layout::kPaddedRows);
      ++seed;
    }
  }
}

TEST_CASE("products of integers of many rows and columns") {
  Operands(200, 96, 70, 32, 7).check(Dtype::kFloat32, Layout::kContiguous);
  Operands(97, 2048, 97, 2048, 8).check(Dtype::kFloat32, Layout::kContiguous);
}

TEST_CASE("the largest integers do not overflow in the longest group") {
  Operands operands(2, quant::kMaxProductGroup, 3, quant::kMaxProductGroup, 5);
  for (const auto& [x, b] : {std::pair{-128, -128}, {-128, 127}, {127, -128}, {127, 127}}) {
    std::ranges::fill(operands.x.q, x);
    std::ranges::fill(operands.b.q, b);
    operands.check(Dtype::kFloat32, Layout::kContiguous);
  }
}

TEST_CASE("a group whose scale is NaN spoils the products of its row or column alone") {
  Operands operands(3, 8, 4, 4, 6);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  operands.x.scales[3] = nan;  // row 1
  operands.b.scales[5] = nan;  // column 2
  Bench bench;
  TestTensor y(Dtype::kFloat32, {3, 4});
  quant::int8_matmul(bench.stream(), y.view(), TestTensor(Dtype::kInt8, {3, 8}, operands.x.q).view(),
                     TestTensor(Dtype::kFloat32, {3, 2}, operands.x.scales).view(), operands.packed(bench));
  for (std::size_t i = 0; i < 12; ++i) CHECK(std::isnan(y.values()[i]) == (i / 4 == 1 || i % 4 == 2));
}

TEST_CASE("what quantize_groups makes of two matrices multiplies to nearly their product") {
  Bench bench;
  const std::int64_t rows = 9, depth = 300, columns = 40, group = 64, groups = 5;
  const auto a = test::random_values({rows, depth}, Dtype::kFloat32, 1),
             b = test::random_values({columns, depth}, Dtype::kFloat32, 2);
  const auto quantized = [&](const std::vector<double>& values, std::int64_t count, TestTensor& q, TestTensor& scales) {
    quant::quantize_groups(bench.stream(), q.view(), scales.view(),
                           TestTensor(Dtype::kFloat32, {count, depth}, values).view(), group);
  };
  TestTensor a_q(Dtype::kInt8, {rows, depth}), a_scales(Dtype::kFloat32, {rows, groups});
  TestTensor b_q(Dtype::kInt8, {columns, depth}), b_scales(Dtype::kFloat32, {columns, groups});
  quantized(a, rows, a_q, a_scales);
  quantized(b, columns, b_q, b_scales);
  quant::PackedInt8 packed(bench.arena(), depth, columns, group, core::Category::kParameters, "test");
  packed.pack(bench.stream(), b_q.view(), b_scales.view());
  TestTensor y(Dtype::kFloat32, {rows, columns});
  quant::int8_matmul(bench.stream(), y.view(), a_q.view(), a_scales.view(), packed);
  for (std::int64_t m = 0; m < rows; ++m) {
    for (std::int64_t n = 0; n < columns; ++n) {
      double product = 0, tolerance = 0;
      for (std::int64_t k = 0; k < depth; ++k) {
        const double left = a[static_cast<std::size_t>(m * depth + k)],
                     right = b[static_cast<std::size_t>(n * depth + k)];
        // Each is within half a step, and a little for what is rounded on the way.
        const double left_step = 0.501 * a_scales.values()[static_cast<std::size_t>(m * groups + k / group)];
        const double right_step = 0.501 * b_scales.values()[static_cast<std::size_t>(n * groups + k / group)];
        product += left * right;
        tolerance += std::abs(left) * right_step + std::abs(right) * left_step + left_step * right_step;
      }
      CHECK(std::abs(y.values()[static_cast<std::size_t>(m * columns + n)] - product) <= tolerance);
    }
  }
}

TEST_CASE("products of integers: threads, neighbouring rows and tiers change no bit") {
  const Operands operands(100, 260, 70, 64, 9);
  Bench bench;
  const quant::PackedInt8 packed = operands.packed(bench);
  const TestTensor x(Dtype::kInt8, {100, 260}, operands.x.q), scales(Dtype::kFloat32, {100, 5}, operands.x.scales);
  const std::vector<double> expected = operands.spelled();
  test::with_threads([&](int) {
    TestTensor y(Dtype::kFloat32, {100, 70});
    quant::int8_matmul(bench.stream(), y.view(), x.view(), scales.view(), packed);
    CHECK(y.values() == expected);
    for (std::int64_t row = 0; row < 100; row += 11) {
      TestTensor alone(Dtype::kFloat32, {1, 70});
      quant::int8_matmul(bench.stream(), alone.view(), x.view().slice(0, row, row + 1),
                         scales.view().slice(0, row, row + 1), packed);
      CHECK(alone.bytes() == y.bytes().substr(static_cast<std::size_t>(row) * 280, 280));
    }
  });
  // Processors of a tier may lack the instructions that this one has.
  TestTensor without(Dtype::kFloat32, {100, 70});
  quant::cpu::int8_matmul(bench.stream(), without.view(), x.view(), scales.view(), packed.data(),
                          quant::cpu::Groups(260, 64), false);
  CHECK(without.values() == expected);
  // Lower tiers multiply what was packed on the highest.
  for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2, core::Tier::kAvx512}) {
    if (tier > core::tier()) continue;
    const core::Tier before = core::tier();
    core::pin_tier(tier);
    TestTensor y(Dtype::kFloat32, {100, 70});
    quant::int8_matmul(bench.stream(), y.view(), x.view(), scales.view(), packed);
    core::pin_tier(before);
    CHECK(y.values() == expected);
  }
}

TEST_CASE("products of integers of higher rank, and of nothing") {
  const Operands operands(6, 10, 5, 4, 11);
  Bench bench;
  const quant::PackedInt8 packed = operands.packed(bench);
  TestTensor y(Dtype::kFloat32, {2, 3, 5});
  quant::int8_matmul(bench.stream(), y.view(), TestTensor(Dtype::kInt8, {2, 3, 10}, operands.x.q).view(),
                     TestTensor(Dtype::kFloat32, {2, 3, 3}, operands.x.scales).view(), packed);
  CHECK(y.values() == operands.spelled());
  TestTensor none(Dtype::kFloat32, {0, 5});
  quant::int8_matmul(bench.stream(), none.view(), TestTensor(Dtype::kInt8, {0, 10}).view(),
                     TestTensor(Dtype::kFloat32, {0, 3}).view(), packed);
  CHECK(none.intact());
  Operands(3, 0, 5, 4, 12).check(Dtype::kBfloat16, Layout::kContiguous);
  Operands(3, 4, 0, 4, 13).check(Dtype::kFloat32, Layout::kContiguous);
}

TEST_CASE("wrong arguments of products of integers are named") {
  Bench bench;
  const auto make = [&](std::int64_t depth, std::int64_t group) {
    return quant::PackedInt8(bench.arena(), depth, 4, group, core::Category::kParameters, "test");
  };
  CHECK_THROWS_WITH(make(8, 0), Catch::Contains("at least one element"));
  CHECK_THROWS_WITH(make(-1, 4), Catch::Contains("negative"));
  CHECK_THROWS_WITH(make(65537, 65537), Catch::Contains("at most 65536"));
  CHECK_NOTHROW(make(100, 100000));
  quant::PackedInt8 packed = make(8, 4);
  const TestTensor q(Dtype::kInt8, {4, 8}), scales(Dtype::kFloat32, {4, 2}), one(Dtype::kFloat32, {4, 1});
  CHECK_THROWS_WITH(packed.pack(bench.stream(), q.view().transposed(0, 1), scales.view()),
                    "PackedInt8::pack: q is int8[8 x 4] with strides 1 x 8, not int8[4 x 8]");
  CHECK_THROWS_WITH(packed.pack(bench.stream(), q.view(), one.view()),
                    "PackedInt8::pack: scales is fp32[4 x 1], not fp32[4 x 2]");
  TestTensor y(Dtype::kFloat32, {4, 4});
  const auto multiply = [&](const core::TensorView& to, const core::TensorView& x, const core::TensorView& by) {
    quant::int8_matmul(bench.stream(), to, x, by, packed);
  };
  CHECK_THROWS_WITH(multiply(y.view(), y.view(), scales.view()), Catch::Contains("x must be int8 [.., K]"));
  CHECK_THROWS_WITH(multiply(q.view(), q.view(), scales.view()), Catch::Contains("y must be of a floating-point"));
  CHECK_THROWS_WITH(multiply(y.view(), q.view(), one.view()), Catch::Contains("scales must be fp32 [.., groups of K]"));
  CHECK_THROWS_WITH(multiply(y.view().slice(0, 0, 3), q.view(), scales.view()), Catch::Contains("differ in rows"));
}

}  // namespace
}  // namespace braise
