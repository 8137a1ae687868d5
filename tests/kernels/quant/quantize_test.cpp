// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/quantize.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "kernels/core/error.h"
#include "tests/kernels/reference/quant.h"
#include "tests/support/tensors.h"

namespace braise {
namespace {

using core::Dtype;
using core::Shape;
using test::Bench;
using test::Layout;
using test::TestTensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double limit_of(Dtype dtype) {
  return dtype == Dtype::kInt4 ? 7 : 127;
}

Layout layout_of(Dtype dtype, Layout layout) {
  return dtype == Dtype::kInt4 ? Layout::kContiguous : layout;
}

void check_equal(const std::vector<double>& actual, const std::vector<double>& expected, const std::string& what) {
  test::check_close(actual, expected, 0, 0, what);
}

/// Quantizes and dequantizes, both compared with the reference to the bit.
void check_groups(const std::vector<double>& values, std::int64_t rows, std::int64_t columns, std::int64_t group,
                  Dtype x_dtype, Dtype q_dtype, Layout layout) {
  CAPTURE(rows, columns, group, core::name(x_dtype), core::name(q_dtype), layout == Layout::kPaddedRows);
  Bench bench;
  const Shape shape{rows, columns};
  const TestTensor x(x_dtype, shape, values, layout);
  TestTensor q(q_dtype, shape, layout_of(q_dtype, layout));
  TestTensor scales(Dtype::kFloat32, {rows, (columns + group - 1) / group}, layout);
  quant::quantize_groups(bench.stream(), q.view(), scales.view(), x.view(), group);
  const auto expected =
      reference::quantize_groups(x.values(), static_cast<std::size_t>(rows), static_cast<std::size_t>(columns),
                                 static_cast<std::size_t>(group), limit_of(q_dtype));
  check_equal(q.values(), expected.q, "q");
  check_equal(scales.values(), expected.scales, "scales");
  CHECK(q.intact());
  CHECK(scales.intact());
  for (const Dtype out_dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    TestTensor out(out_dtype, shape, layout);
    quant::dequantize_groups(bench.stream(), out.view(), q.view(), scales.view(), group);
    auto back = reference::dequantize_groups(expected, static_cast<std::size_t>(rows),
                                             static_cast<std::size_t>(columns), static_cast<std::size_t>(group));
    for (double& value : back) value = test::rounded(value, out_dtype);
    check_equal(out.values(), back, "dequantized");
    CHECK(out.intact());
  }
}

TEST_CASE("groups are quantized as the reference does, to the bit") {
  std::uint64_t seed = 1;
  for (const std::int64_t columns : {1, 2, 3, 7, 16, 17, 32, 33, 64, 129, 300, 1025}) {
    for (const std::int64_t group : {1, 3, 8, 32, 33, 128, 5000}) {
      const std::int64_t rows = columns % 5 + 1;
      const Shape shape{rows, columns};
      const auto x_dtype = std::array{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}[seed % 3];
      const auto values = test::random_values(shape, x_dtype, ++seed, 3.0);
      for (const Dtype q_dtype : {Dtype::kInt8, Dtype::kInt4}) {
        check_groups(values, rows, columns, group, x_dtype, q_dtype,
                     seed % 2 == 0 ? Layout::kContiguous : Layout::kPaddedRows);
      }
    }
  }
}

TEST_CASE("a row longer than a piece of work is quantized as a whole") {
  for (const std::int64_t group : {7, 128, 30000, 100000}) {
    const auto values = test::random_values({2, 70001}, Dtype::kFloat32, 9, 1e-3);
    check_groups(values, 2, 70001, group, Dtype::kFloat32, Dtype::kInt8, Layout::kContiguous);
    check_groups(values, 2, 70001, group, Dtype::kFloat32, Dtype::kInt4, Layout::kContiguous);
  }
}

TEST_CASE("extreme values are quantized as the reference does") {
  const std::vector<double> values = {
      0,          -0.0,      0,         0,      // all zero
      1e-45,      0,         -1e-45,    0,      // too small for a scale
      1e-43,      -2e-43,    2.66e-43,  0,      // a scale of one or two units: what is held within the limit
      1e-38,      3e-39,     -1e-38,    1e-45,  // subnormal
      3.4e38,     -3.4e38,   1e38,      1,      // large
      1e30,       1e-30,     -1e30,     0,      //
      127,        0.5,       1.5,       -2.5,   // ties go to even
      7,          0.5,       1.5,       -2.5,   //
      1,          kNan,      2,         3,      //
      1,          2,         kInfinity, 3,      //
      -kInfinity, 2,         1,         3,      //
      kNan,       kInfinity, 0,         0,      //
  };
  const auto rows = static_cast<std::int64_t>(values.size() / 4);
  for (const Dtype x_dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const Dtype q_dtype : {Dtype::kInt8, Dtype::kInt4}) {
      check_groups(values, rows, 4, 4, x_dtype, q_dtype, Layout::kContiguous);
      check_groups(values, 1, 4 * rows, 4, x_dtype, q_dtype, Layout::kContiguous);
    }
  }
}

TEST_CASE("known groups") {
  Bench bench;
  const TestTensor x(Dtype::kFloat32, {2, 5}, {1.25, -2.0, 0.25, 0.0, 5.0, 0.0, 0.0, 0.0, -0.5, 0.5});
  TestTensor q(Dtype::kInt8, {2, 5});
  TestTensor scales(Dtype::kFloat32, {2, 2});
  quant::quantize_groups(bench.stream(), q.view(), scales.view(), x.view(), 3);
  CHECK(q.values() == std::vector<double>{79, -127, 16, 0, 127, 0, 0, 0, -127, 127});
  CHECK(scales.values() == std::vector<double>{2.0f / 127.0f, 5.0f / 127.0f, 0, 0.5f / 127.0f});

  TestTensor packed(Dtype::kInt4, {2, 5});
  quant::quantize_groups(bench.stream(), packed.view(), scales.view(), x.view(), 3);
  CHECK(packed.values() == std::vector<double>{4, -7, 1, 0, 7, 0, 0, 0, -7, 7});
  // Even elements in low nibbles; the half byte that is over is 0.
  CHECK(packed.bytes() == std::string("\x94\x01\x07\x00\x90\x07", 6));
  CHECK(scales.values() == std::vector<double>{2.0f / 7.0f, 5.0f / 7.0f, 0, 0.5f / 7.0f});
}

TEST_CASE("the lowest integers, which quantize_groups never makes, are dequantized too") {
  Bench bench;
  const TestTensor scales(Dtype::kFloat32, {1, 1}, {0.5});
  TestTensor out(Dtype::kFloat32, {1, 3});
  quant::dequantize_groups(bench.stream(), out.view(), TestTensor(Dtype::kInt8, {1, 3}, {-128, 127, 1}).view(),
                           scales.view(), 3);
  CHECK(out.values() == std::vector<double>{-64, 63.5, 0.5});
  quant::dequantize_groups(bench.stream(), out.view(), TestTensor(Dtype::kInt4, {1, 3}, {-8, 7, -1}).view(),
                           scales.view(), 3);
  CHECK(out.values() == std::vector<double>{-4, 3.5, -0.5});
}

TEST_CASE("what is dequantized is within half a step of what was quantized") {
  Bench bench;
  const Shape shape{5, 384};
  const auto values = test::random_values(shape, Dtype::kFloat32, 77, 10.0);
  const TestTensor x(Dtype::kFloat32, shape, values);
  for (const Dtype dtype : {Dtype::kInt8, Dtype::kInt4}) {
    TestTensor q(dtype, shape), scales(Dtype::kFloat32, {5, 3}), out(Dtype::kFloat32, shape);
    quant::quantize_groups(bench.stream(), q.view(), scales.view(), x.view(), 128);
    quant::dequantize_groups(bench.stream(), out.view(), q.view(), scales.view(), 128);
    const auto steps = scales.values();
    // Half a step, and the roundings of the scale, of the quotient and of the product, each of a number up to limit
    // steps.
    test::check_close(out.values(), values, [&](std::size_t i) {
      return steps[i / 128] * (0.5 + 3 * limit_of(dtype) * test::unit_roundoff(Dtype::kFloat32));
    });
  }
}

TEST_CASE("higher ranks are rows, one dimension is a row, and nothing is nothing") {
  Bench bench;
  const auto values = test::random_values({2, 3, 10}, Dtype::kFloat32, 5);
  const TestTensor x(Dtype::kFloat32, {2, 3, 10}, values);
  TestTensor q(Dtype::kInt4, {2, 3, 10}), scales(Dtype::kFloat32, {2, 3, 3}), out(Dtype::kFloat32, {2, 3, 10});
  quant::quantize_groups(bench.stream(), q.view(), scales.view(), x.view(), 4);
  quant::dequantize_groups(bench.stream(), out.view(), q.view(), scales.view(), 4);
  const auto expected = reference::quantize_groups(values, 6, 10, 4, 7);
  check_equal(q.values(), expected.q, "q");
  check_equal(out.values(), reference::dequantize_groups(expected, 6, 10, 4), "out");

  TestTensor list_q(Dtype::kInt8, {60}), list_scales(Dtype::kFloat32, {15});
  quant::quantize_groups(bench.stream(), list_q.view(), list_scales.view(), x.view().reshaped({60}), 4);
  check_equal(list_q.values(), reference::quantize_groups(values, 1, 60, 4, 127).q, "a list");

  for (const Shape& shape : {Shape{0, 8}, Shape{3, 0}, Shape{0, 0}}) {
    const TestTensor none(Dtype::kFloat32, shape);
    TestTensor no_q(Dtype::kInt8, shape), no_scales(Dtype::kFloat32, {shape[0], (shape[1] + 3) / 4});
    TestTensor no_out(Dtype::kBfloat16, shape);
    quant::quantize_groups(bench.stream(), no_q.view(), no_scales.view(), none.view(), 4);
    quant::dequantize_groups(bench.stream(), no_out.view(), no_q.view(), no_scales.view(), 4);
    CHECK(no_q.intact());
  }
}

TEST_CASE("threads and neighbouring rows change no bit") {
  Bench bench;
  const Shape shape{9, 40001};
  const TestTensor x(Dtype::kBfloat16, shape, test::random_values(shape, Dtype::kBfloat16, 21));
  for (const Dtype dtype : {Dtype::kInt8, Dtype::kInt4}) {
    TestTensor alone(dtype, {1, 40001}), alone_scales(Dtype::kFloat32, {1, 801});
    quant::quantize_groups(bench.stream(), alone.view(), alone_scales.view(), x.view().slice(0, 4, 5), 50);
    std::string first;
    test::with_threads([&](int) {
      TestTensor q(dtype, shape), scales(Dtype::kFloat32, {9, 801}), out(Dtype::kFloat16, shape);
      quant::quantize_groups(bench.stream(), q.view(), scales.view(), x.view(), 50);
      quant::dequantize_groups(bench.stream(), out.view(), q.view(), scales.view(), 50);
      const std::string bytes = q.bytes() + scales.bytes() + out.bytes();
      if (first.empty()) first = bytes;
      CHECK(bytes == first);
      CHECK(q.bytes().substr(4 * alone.bytes().size(), alone.bytes().size()) == alone.bytes());
    });
  }
}

TEST_CASE("wrong arguments of quantize_groups and dequantize_groups are named") {
  Bench bench;
  const TestTensor x(Dtype::kFloat32, {2, 8}), q(Dtype::kInt8, {2, 8}), scales(Dtype::kFloat32, {2, 2});
  const TestTensor other(Dtype::kInt32, {2, 8}), short_scales(Dtype::kFloat32, {2, 1});
  const auto quantize = [&](const auto& to, const auto& by, const auto& from, std::int64_t group) {
    quant::quantize_groups(bench.stream(), to, by, from, group);
  };
  CHECK_THROWS_WITH(quantize(q.view(), scales.view(), x.view(), 0), Catch::Contains("quantize_groups: a group has"));
  CHECK_THROWS_WITH(quantize(other.view(), scales.view(), x.view(), 4),
                    "quantize_groups: q is int32[2 x 8], not int8 or int4 [2 x 8]");
  CHECK_THROWS_WITH(quantize(q.view(), short_scales.view(), x.view(), 4),
                    "quantize_groups: scales is fp32[2 x 1], not fp32[2 x 2]");
  CHECK_THROWS_WITH(quantize(q.view(), scales.view(), q.view(), 4),
                    "quantize_groups: x is int8[2 x 8], not fp32, bf16 or fp16 [2 x 8]");
  CHECK_THROWS_WITH(quantize(q.view(), scales.view(), core::ConstTensorView(), 4), Catch::Contains("no rows"));
  CHECK_THROWS_WITH(quantize(q.view().transposed(0, 1), TestTensor(Dtype::kFloat32, {8, 1}).view(),
                             TestTensor(Dtype::kFloat32, {8, 2}).view(), 4),
                    Catch::Contains("last dimension must be contiguous"));
  CHECK_THROWS_WITH(quant::dequantize_groups(bench.stream(), x.view(), x.view(), scales.view(), 4),
                    "dequantize_groups: q is fp32[2 x 8], not int8 or int4 [2 x 8]");
}

}  // namespace
}  // namespace braise
