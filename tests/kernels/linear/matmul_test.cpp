// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/matmul.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/activation/gated.h"
#include "kernels/core/error.h"
#include "tests/kernels/reference/linear.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;
namespace reference = braise::reference;
using braise::linear::Epilogue;
using braise::linear::matmul;
using braise::linear::PackedMatrix;
using Catch::Contains;

namespace {

struct Sizes {
  std::int64_t rows;
  std::int64_t depth;
  std::int64_t columns;
};

std::size_t size(std::int64_t value) {
  return static_cast<std::size_t>(value);
}

/// What rounding allows: each of K products and sums errs by at most a unit of fp32 of what it adds to, in any order,
/// then the result is rounded once to y's dtype. Below 2^-126 a sum may be flushed to zero.
std::vector<double> allowed(const std::vector<double>& x, const std::vector<double>& b, const std::vector<double>& y,
                            const Sizes& sizes, Dtype dtype) {
  std::vector<double> bound = reference::matmul(reference::magnitudes(x), reference::magnitudes(b), size(sizes.rows),
                                                size(sizes.depth), size(sizes.columns));
  for (std::size_t i = 0; i < bound.size(); ++i) {
    bound[i] = bound[i] * static_cast<double>(sizes.depth + 2) * 0x1p-24 + std::abs(y[i]) * unit_roundoff(dtype) +
               static_cast<double>(sizes.depth + 1) * 0x1p-126;
  }
  return bound;
}

void check_product(Bench& bench, Dtype dtype, Dtype out, const Sizes& sizes, std::uint64_t seed) {
  INFO(name(dtype) << " -> " << name(out) << ", M " << sizes.rows << " K " << sizes.depth << " N " << sizes.columns);
  const std::vector<double> x = random_values(Shape{sizes.rows, sizes.depth}, dtype, seed);
  const std::vector<double> b = random_values(Shape{sizes.depth, sizes.columns}, dtype, seed + 1);
  const std::vector<double> expected =
      reference::matmul(x, b, size(sizes.rows), size(sizes.depth), size(sizes.columns));
  const std::vector<double> bound = allowed(x, b, expected, sizes, out);
  const TestTensor x_rows(dtype, Shape{sizes.rows, sizes.depth}, x);
  const TestTensor x_columns(dtype, Shape{sizes.depth, sizes.rows},
                             reference::transposed(x, size(sizes.rows), size(sizes.depth)), Layout::kPaddedRows);
  const TestTensor b_rows(dtype, Shape{sizes.depth, sizes.columns}, b, Layout::kPaddedRows);
  const TestTensor b_columns(dtype, Shape{sizes.columns, sizes.depth},
                             reference::transposed(b, size(sizes.depth), size(sizes.columns)));
  std::string first;
  for (const ConstTensorView& left :
       {ConstTensorView(x_rows.view()), ConstTensorView(x_columns.view().transposed(0, 1))}) {
    for (const ConstTensorView& right :
         {ConstTensorView(b_rows.view()), ConstTensorView(b_columns.view().transposed(0, 1))}) {
      const TestTensor y(out, Shape{sizes.rows, sizes.columns}, Layout::kPaddedRows);
      matmul(bench.stream(), y.view(), left, right);
      check_close(
          y.values(), expected, [&](std::size_t i) { return bound[i]; }, "matmul");
      CHECK(y.intact());
      if (first.empty()) first = y.bytes();
      CHECK(y.bytes() == first);  // however the operands lie
    }
  }
}

}  // namespace

TEST_CASE("products of every dtype and odd sizes are within rounding of the reference") {
  Bench bench;
  std::uint64_t seed = 1;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const Sizes& sizes :
         {Sizes{1, 1, 1}, Sizes{3, 7, 5}, Sizes{17, 33, 65}, Sizes{129, 64, 17}, Sizes{7, 129, 257}, Sizes{16, 96, 256},
          Sizes{200, 31, 320}, Sizes{1, 300, 3}, Sizes{140, 160, 96}}) {
      check_product(bench, dtype, Dtype::kFloat32, sizes, seed += 2);
      check_product(bench, dtype, dtype, sizes, seed += 2);
    }
  }
}

TEST_CASE("a depth of several parts is summed part by part") {
  Bench bench;
  check_product(bench, Dtype::kFloat32, Dtype::kFloat32, Sizes{5, 4096 + 3, 7}, 101);
  check_product(bench, Dtype::kBfloat16, Dtype::kBfloat16, Sizes{33, 2 * 4096 + 64, 66}, 103);
  check_product(bench, Dtype::kBfloat16, Dtype::kFloat32, Sizes{2, 4 * 4096 + 1, 3}, 105);
}

TEST_CASE("empty products") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    const TestTensor x(dtype, Shape{3, 0});
    const TestTensor b(dtype, Shape{0, 5});
    const TestTensor y(Dtype::kFloat32, Shape{3, 5});
    matmul(bench.stream(), y.view(), x.view(), b.view());
    CHECK(y.values() == std::vector<double>(15, 0.0));
    const TestTensor none(dtype, Shape{0, 4});
    const TestTensor right(dtype, Shape{4, 5}, std::vector<double>(20, 1.0));
    matmul(bench.stream(), TestTensor(Dtype::kFloat32, Shape{0, 5}).view(), none.view(), right.view());
  }
}

TEST_CASE("a row's bits depend neither on the rows beside it nor on the threads") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const auto& [depth, columns] :
         {std::pair<std::int64_t, std::int64_t>{64, 64}, {768, 200}, {172, 64}, {33, 17}, {4096 + 512, 96}}) {
      constexpr std::int64_t kRows = 512;
      const std::vector<double> values = random_values(Shape{kRows, depth}, dtype, 5);
      const TestTensor x(dtype, Shape{kRows, depth}, values);
      const TestTensor b(dtype, Shape{depth, columns}, random_values(Shape{depth, columns}, dtype, 6));
      PackedMatrix packed(bench.arena(), dtype, depth, columns, Category::kParameters, "b");
      packed.pack(bench.stream(), b.view());
      const TestTensor whole(Dtype::kFloat32, Shape{kRows, columns});
      matmul(bench.stream(), whole.view(), x.view(), packed);
      const std::string expected = whole.bytes();
      const auto row_bytes = size(columns) * 4;
      with_threads([&](int threads) {
        for (const std::int64_t rows : {1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 511, 512}) {
          INFO(name(dtype) << " M " << rows << " K " << depth << " N " << columns << " threads " << threads);
          const std::int64_t begin = (kRows - rows) / 3;
          const TestTensor y(Dtype::kFloat32, Shape{rows, columns});
          matmul(bench.stream(), y.view(), x.view().slice(0, begin, begin + rows), packed);
          REQUIRE(y.bytes() == expected.substr(size(begin) * row_bytes, size(rows) * row_bytes));
        }
      });
      // The columns of the transposed product are other tiles, so only rows are promised: reversed rows, same bits.
      const TestTensor reversed(dtype, Shape{kRows, depth});
      const auto bytes = size(depth) * size(bits(dtype) / 8);
      for (std::int64_t i = 0; i < kRows; ++i) {
        std::memcpy(static_cast<char*>(reversed.view().raw()) + size(i) * bytes,
                    static_cast<const char*>(x.view().raw()) + size(kRows - 1 - i) * bytes, bytes);
      }
      const TestTensor y(Dtype::kFloat32, Shape{kRows, columns});
      matmul(bench.stream(), y.view(), reversed.view(), packed);
      const std::string got = y.bytes();
      for (std::int64_t i = 0; i < kRows; ++i) {
        REQUIRE(got.substr(size(i) * row_bytes, row_bytes) ==
                expected.substr(size(kRows - 1 - i) * row_bytes, row_bytes));
      }
    }
  }
}

TEST_CASE("the epilogue does its steps in order, in fp32") {
  Bench bench;
  constexpr std::int64_t kRows = 37;
  constexpr std::int64_t kDepth = 48;
  constexpr std::int64_t kColumns = 67;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    const TestTensor x(dtype, Shape{kRows, kDepth}, random_values(Shape{kRows, kDepth}, dtype, 11));
    const TestTensor b(dtype, Shape{kDepth, kColumns}, random_values(Shape{kDepth, kColumns}, dtype, 12));
    const TestTensor plain(Dtype::kFloat32, Shape{kRows, kColumns});
    matmul(bench.stream(), plain.view(), x.view(), b.view());
    const std::vector<double> sums = plain.values();

    const TestTensor bias(Dtype::kFloat32, Shape{kColumns}, random_values(Shape{kColumns}, Dtype::kFloat32, 13));
    const TestTensor residual(dtype, Shape{kRows, kColumns}, random_values(Shape{kRows, kColumns}, dtype, 14),
                              Layout::kPaddedRows);
    const std::vector<double> before = random_values(Shape{kRows, kColumns}, dtype, 15);
    const TestTensor y(dtype, Shape{kRows, kColumns}, before, Layout::kPaddedRows);
    Epilogue epilogue;
    epilogue.scale = 0.3f;
    epilogue.bias = bias.view();
    epilogue.residual = residual.view();
    epilogue.accumulate = Accumulate::kAdd;
    matmul(bench.stream(), y.view(), x.view(), b.view(), epilogue);
    std::vector<double> expected(sums.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      float v = static_cast<float>(sums[i]) * 0.3f;
      v += static_cast<float>(bias.values()[i % kColumns]);
      v += static_cast<float>(residual.values()[i]);
      v += static_cast<float>(before[i]);
      expected[i] = rounded(v, dtype);
    }
    CHECK(y.values() == expected);
    CHECK(y.intact());
  }
}

TEST_CASE("an activation after a product has the bits of the operation by itself") {
  using braise::activation::Activation;
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const auto& [rows, depth, units] :
         {std::tuple{1, 48, 128}, {37, 48, 67}, {130, 33, 1}, {5, 16, 300}, {3, 0, 9}}) {
      for (const bool gated : {false, true}) {
        const std::int64_t columns = gated ? 2 * units : units;
        const TestTensor x(dtype, Shape{rows, depth}, random_values(Shape{rows, depth}, dtype, 11));
        const TestTensor b(dtype, Shape{depth, columns}, random_values(Shape{depth, columns}, dtype, 12));
        const TestTensor bias(Dtype::kFloat32, Shape{columns}, random_values(Shape{columns}, Dtype::kFloat32, 13));
        PackedMatrix plain(bench.arena(), dtype, depth, columns, Category::kParameters, "b");
        plain.pack(bench.stream(), b.view());
        Epilogue epilogue;
        epilogue.scale = 1.7f;
        epilogue.bias = bias.view();
        const TestTensor input(dtype, Shape{rows, columns});
        matmul(bench.stream(), input.view(), x.view(), plain, epilogue);

        PackedMatrix packed(bench.arena(), dtype, depth, columns, Category::kParameters, "b",
                            gated ? braise::linear::Columns::kGated : braise::linear::Columns::kPlain);
        packed.pack(bench.stream(), b.view());
        for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
          CAPTURE(rows, depth, units, gated, static_cast<int>(activation));
          const TestTensor expected(dtype, Shape{rows, units});
          if (gated) {
            braise::activation::gated_forward(bench.stream(), expected.view(), input.view().slice(1, 0, units),
                                              input.view().slice(1, units, columns), activation);
          } else {
            braise::activation::activation_forward(bench.stream(), expected.view(), input.view(), activation);
          }
          epilogue.activation = activation;
          for (const bool keeps : {false, true}) {
            const TestTensor y(dtype, Shape{rows, units}, Layout::kPaddedRows);
            const TestTensor kept(dtype, Shape{rows, columns}, Layout::kPaddedRows);
            epilogue.activation_input = keeps ? kept.view() : TensorView();
            matmul(bench.stream(), y.view(), x.view(), packed, epilogue);
            CHECK(y.values() == expected.values());
            CHECK(y.intact());
            if (!keeps) continue;
            CHECK(kept.values() == input.values());
            CHECK(kept.intact());
          }
        }
      }
    }
  }
}

TEST_CASE("infinities and NaN reach the rows and columns they belong to, and no others") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    std::vector<double> x(40 * 32, 1.0);
    x[3 * 32 + 5] = std::numeric_limits<double>::infinity();
    x[7 * 32 + 9] = std::nan("");
    const TestTensor left(dtype, Shape{40, 32}, x);
    const TestTensor right(dtype, Shape{32, 20}, std::vector<double>(32 * 20, 2.0));
    const TestTensor y(dtype, Shape{40, 20});
    matmul(bench.stream(), y.view(), left.view(), right.view());
    const std::vector<double> values = y.values();
    for (std::size_t i = 0; i < 40; ++i) {
      for (std::size_t j = 0; j < 20; ++j) {
        const double value = values[i * 20 + j];
        if (i == 3) {
          REQUIRE(value == std::numeric_limits<double>::infinity());
        } else if (i == 7) {
          REQUIRE(std::isnan(value));
        } else {
          REQUIRE(value == 64);
        }
      }
    }
  }
}

TEST_CASE("batched products are the products of the batch") {
  Bench bench;
  const Dtype dtype = Dtype::kBfloat16;
  const TestTensor x(dtype, Shape{3, 20, 33}, random_values(Shape{3, 20, 33}, dtype, 21));
  const TestTensor b(dtype, Shape{3, 33, 9}, random_values(Shape{3, 33, 9}, dtype, 22));
  const TestTensor y(Dtype::kFloat32, Shape{3, 20, 9});
  braise::linear::batched_matmul(bench.stream(), y.view(), x.view(), b.view());
  for (std::int64_t i = 0; i < 3; ++i) {
    const TestTensor one(Dtype::kFloat32, Shape{20, 9});
    matmul(bench.stream(), one.view(), x.view().select(0, i), b.view().select(0, i));
    const std::vector<double> all = y.values();
    CHECK(std::vector<double>(all.begin() + i * 180, all.begin() + (i + 1) * 180) == one.values());
  }
}

TEST_CASE("leading dimensions are rows") {
  Bench bench;
  const TestTensor x(Dtype::kFloat32, Shape{2, 3, 8}, random_values(Shape{2, 3, 8}, Dtype::kFloat32, 31));
  const TestTensor b(Dtype::kFloat32, Shape{8, 4}, random_values(Shape{8, 4}, Dtype::kFloat32, 32));
  const TestTensor y(Dtype::kFloat32, Shape{2, 3, 4});
  const TestTensor flat(Dtype::kFloat32, Shape{6, 4});
  matmul(bench.stream(), y.view(), x.view(), b.view());
  matmul(bench.stream(), flat.view(), x.view().reshaped(Shape{6, 8}), b.view());
  CHECK(y.bytes() == flat.bytes());
}

TEST_CASE("arguments that do not go together are named") {
  Bench bench;
  const TestTensor x(Dtype::kFloat32, Shape{4, 8});
  const TestTensor b(Dtype::kFloat32, Shape{8, 4});
  const TestTensor half(Dtype::kBfloat16, Shape{8, 4});
  const TestTensor y(Dtype::kFloat32, Shape{4, 4});
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), half.view()),
                    Contains("x is fp32[4 x 8] and b is bf16[8 x 4]"));
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), y.view(), b.view()), Contains("one K"));
  CHECK_THROWS_WITH(matmul(bench.stream(), x.view(), x.view(), b.view()), Contains("N columns"));
  Epilogue epilogue;
  epilogue.bias = x.view();
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), b.view(), epilogue), Contains("bias is fp32[4 x 8]"));
  epilogue.bias = x.view().transposed(0, 1).select(0, 0);
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), b.view(), epilogue), Contains("bias is not contiguous"));
  Epilogue activated;
  activated.activation_input = y.view();
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), b.view(), activated), Contains("without an activation"));
  activated.activation = braise::activation::Activation::kSilu;
  activated.activation_input = x.view();
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), b.view(), activated), Contains("activation_input must"));
  activated.activation_input = {};
  activated.residual = y.view();
  CHECK_THROWS_WITH(matmul(bench.stream(), y.view(), x.view(), b.view(), activated), Contains("neither a residual"));
  CHECK_THROWS_WITH(
      PackedMatrix(bench.arena(), Dtype::kFloat32, 8, 5, Category::kParameters, "b", braise::linear::Columns::kGated),
      Contains("even in number"));
  PackedMatrix packed(bench.arena(), Dtype::kFloat32, 8, 4, Category::kParameters, "b");
  CHECK_THROWS_WITH(packed.pack(bench.stream(), half.view()), Contains("PackedMatrix::pack: b is bf16[8 x 4]"));
}
