// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/amx_product.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <vector>

#include "kernels/core/tier.h"
#include "kernels/linear/matmul.h"
#include "tests/kernels/reference/linear.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;
namespace reference = braise::reference;
namespace amx = braise::linear::cpu::amx;

namespace {

bool lacks_amx() {
  if (settle_tier() >= Tier::kAmx) return false;
  WARN("skipped: this tier has no AMX");
  return true;
}

std::int64_t up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// bf16 words on a cache line, poisoned with NaN.
class Words {
 public:
  explicit Words(std::int64_t count) : memory_(static_cast<std::size_t>(count) + 32, 0xffff) {}
  std::uint16_t* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (up(static_cast<std::int64_t>(address), 64) - static_cast<std::int64_t>(address)) / 2;
  }

 private:
  std::vector<std::uint16_t> memory_;
};

std::uint16_t word_at(const ConstTensorView& matrix, std::int64_t row, std::int64_t column) {
  if (row >= matrix.extent(0) || column >= matrix.extent(1)) return 0;
  return matrix.data<Bfloat16>()[row * matrix.stride(0) + column * matrix.stride(1)].bits;
}

/// A matrix of random values in each of the ways that are packed differently: by rows, by columns, with gaps.
struct Lying {
  Lying(std::int64_t rows, std::int64_t columns, std::uint64_t seed)
      : values(random_values(Shape{rows, columns}, Dtype::kBfloat16, seed)),
        by_rows(Dtype::kBfloat16, Shape{rows, columns}, values, Layout::kPaddedRows),
        by_columns(Dtype::kBfloat16, Shape{columns, rows},
                   reference::transposed(values, static_cast<std::size_t>(rows), static_cast<std::size_t>(columns)),
                   Layout::kPaddedRows),
        spread(Dtype::kBfloat16, Shape{rows, 2 * columns}) {
    std::vector<double> wide(2 * values.size());
    for (std::size_t i = 0; i < values.size(); ++i) wide[2 * i] = values[i];
    spread.set(wide);
    const std::array<std::int64_t, 2> strides{2 * columns, 2};
    views = {by_rows.view(), by_columns.view().transposed(0, 1),
             ConstTensorView(spread.view().raw(), Dtype::kBfloat16, Shape{rows, columns}, strides)};
  }
  std::vector<double> values;
  TestTensor by_rows;
  TestTensor by_columns;
  TestTensor spread;
  std::vector<ConstTensorView> views;
};

}  // namespace

TEST_CASE("AMX: operands are packed as the tiles read them, with zeros past their depth") {
  if (lacks_amx()) return;
  for (const auto& [depth, columns] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {2, 16}, {31, 17}, {32, 32}, {33, 33}, {64, 100}, {129, 64}}) {
    INFO("depth " << depth << ", other side " << columns);
    const std::int64_t padded = up(depth, amx::kDepth);
    const Lying right(depth, columns, 3);
    for (const ConstTensorView& b : right.views) {
      Words packed(padded * up(columns, amx::kPanel));
      amx::pack_right(packed.data(), b, padded, 0, columns);
      for (std::int64_t j = 0; j < up(columns, amx::kPanel); ++j) {
        for (std::int64_t k = 0; k < padded; ++k) {
          const std::int64_t tile = j / 32 * padded * 32 + k / 32 * 1024 + j % 32 / 16 * 512;
          REQUIRE(packed.data()[tile + k % 32 / 2 * 32 + j % 16 * 2 + k % 2] == word_at(b, k, j));
        }
      }
    }
    const Lying left(columns, depth, 4);
    for (const ConstTensorView& a : left.views) {
      Words packed(padded * up(columns, amx::kRows));
      amx::pack_left(packed.data(), a, padded);
      for (std::int64_t i = 0; i < columns; ++i) {
        for (std::int64_t k = 0; k < padded; ++k) {
          REQUIRE(packed.data()[i / 16 * padded * 16 + k / 32 * 512 + i % 16 * 32 + k % 32] == word_at(a, i, k));
        }
      }
    }
  }
}

TEST_CASE("AMX: products of operands that are used once, of any size and layout, and what they are added to") {
  if (lacks_amx()) return;
  Bench bench;
  struct Sizes {
    std::int64_t rows, depth, columns;
  };
  for (const Sizes& s : {Sizes{1, 1, 1},
                         {33, 40, 31},
                         {16, 32, 16},
                         {17, 1024 + 7, 65},
                         {513, 64, 257},
                         {130, 2048, 96},
                         {32, 3 * 1024 + 1, 300}}) {
    INFO("M " << s.rows << " K " << s.depth << " N " << s.columns);
    const Lying left(s.rows, s.depth, 5);
    const Lying right(s.depth, s.columns, 6);
    const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
    const std::vector<double> product =
        reference::matmul(left.values, right.values, size(s.rows), size(s.depth), size(s.columns));
    const std::vector<double> magnitude =
        reference::matmul(reference::magnitudes(left.values), reference::magnitudes(right.values), size(s.rows),
                          size(s.depth), size(s.columns));
    const std::vector<double> before = random_values(Shape{s.rows, s.columns}, Dtype::kFloat32, 7);
    std::string first;
    for (const ConstTensorView& x : left.views) {
      for (const ConstTensorView& b : right.views) {
        const TestTensor y(Dtype::kFloat32, Shape{s.rows, s.columns}, before, Layout::kPaddedRows);
        braise::linear::Epilogue epilogue;
        epilogue.accumulate = Accumulate::kAdd;
        braise::linear::matmul(bench.stream(), y.view(), x, b, epilogue);
        const std::vector<double> values = y.values();
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double bound = (magnitude[i] + std::abs(before[i])) * static_cast<double>(s.depth + 4) * 0x1p-24;
          REQUIRE(std::abs(values[i] - before[i] - product[i]) <= bound);
        }
        CHECK(y.intact());
        if (first.empty()) first = y.bytes();
        CHECK(y.bytes() == first);  // however the operands lie
      }
    }
    with_threads([&](int threads) {
      INFO("threads " << threads);
      const TestTensor y(Dtype::kFloat32, Shape{s.rows, s.columns}, before, Layout::kPaddedRows);
      braise::linear::Epilogue epilogue;
      epilogue.accumulate = Accumulate::kAdd;
      braise::linear::matmul(bench.stream(), y.view(), left.views[0], right.views[0], epilogue);
      CHECK(y.bytes() == first);
      // And a row's bits are its own.
      const TestTensor last(Dtype::kFloat32, Shape{1, s.columns});
      braise::linear::matmul(bench.stream(), last.view(), left.views[0].slice(0, s.rows - 1, s.rows), right.views[0]);
      const TestTensor all(Dtype::kFloat32, Shape{s.rows, s.columns});
      braise::linear::matmul(bench.stream(), all.view(), left.views[0], right.views[0]);
      CHECK(last.bytes() == all.bytes().substr(static_cast<std::size_t>((s.rows - 1) * s.columns * 4)));
    });
  }
}
