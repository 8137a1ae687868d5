// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/copy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/half.h"
#include "kernels/core/philox.h"
#include "tests/support/tensors.h"

using namespace braise;
using core::Bfloat16;
using core::ConstTensorView;
using core::Dtype;
using core::Float16;
using core::Shape;
using core::TensorView;
using test::Layout;
using test::TestTensor;

namespace {

constexpr std::array kFloats{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16};
constexpr std::array kPlain{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16, Dtype::kInt8, Dtype::kInt32};

std::byte* element(const ConstTensorView& tensor, std::int64_t index) {
  std::int64_t offset = 0;
  for (int i = tensor.rank() - 1; i >= 0; --i) {
    offset += index % tensor.extent(i) * tensor.stride(i);
    index /= tensor.extent(i);
  }
  return static_cast<std::byte*>(const_cast<void*>(tensor.raw())) + offset * (core::bits(tensor.dtype()) / 8);
}

/// The bits of an element in row-major order.
std::uint32_t bits_at(const ConstTensorView& tensor, std::int64_t index) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, element(tensor, index), static_cast<std::size_t>(core::bits(tensor.dtype()) / 8));
  return bits;
}

/// Random bits: every kind of number, NaN and subnormals too.
void fill_with_bits(const TensorView& tensor, std::uint32_t seed) {
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    const auto word = core::philox({static_cast<std::uint32_t>(i), 0, 0, 0}, {seed, 0})[0];
    std::memcpy(element(tensor, i), &word, static_cast<std::size_t>(core::bits(tensor.dtype()) / 8));
  }
}

/// What half.h makes of one element.
std::uint32_t converted(Dtype to, Dtype from, std::uint32_t bits) {
  if (to == from) return bits;
  const auto half = static_cast<std::uint16_t>(bits);
  const float value = from == Dtype::kFloat32    ? std::bit_cast<float>(bits)
                      : from == Dtype::kBfloat16 ? core::to_float(Bfloat16{half})
                                                 : core::to_float(Float16{half});
  return to == Dtype::kFloat32    ? std::bit_cast<std::uint32_t>(value)
         : to == Dtype::kBfloat16 ? core::to_bfloat16(value).bits
                                  : core::to_float16(value).bits;
}

/// The first element of the destination that is not what it should be; -1 if none.
std::int64_t first_difference(const ConstTensorView& to, const ConstTensorView& from) {
  for (std::int64_t i = 0; i < to.elements(); ++i) {
    if (bits_at(to, i) != converted(to.dtype(), from.dtype(), bits_at(from, i))) return i;
  }
  return -1;
}

/// A view whose dimension i is dimension order[i] of `view`.
template <class View>
View permuted(View view, const std::vector<int>& order) {
  std::vector<int> now(order.size());
  std::iota(now.begin(), now.end(), 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto at = static_cast<std::size_t>(std::find(now.begin(), now.end(), order[i]) - now.begin());
    view = view.transposed(static_cast<int>(i), static_cast<int>(at));
    std::swap(now[i], now[at]);
  }
  return view;
}

template <class To, class From>
std::vector<To> cast(const std::vector<From>& from) {
  test::Bench bench;
  std::vector<To> to(from.size());
  const Shape shape{static_cast<std::int64_t>(from.size())};
  core::copy(bench.stream(), TensorView(to.data(), core::dtype_of<To>, shape),
             ConstTensorView(from.data(), core::dtype_of<From>, shape));
  return to;
}

/// Casts all values at once and compares with the scalar function, to the bit.
template <class To, class From>
void check_cast(const std::vector<From>& values) {
  const std::vector<To> result = cast<To>(values);
  std::size_t differences = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const To expected = core::from_float<To>(core::to_float(values[i]));
    if (std::memcmp(&expected, &result[i], sizeof(To)) != 0 && ++differences < 5) {
      std::uint32_t word = 0;
      std::memcpy(&word, &values[i], sizeof(From));
      FAIL_CHECK("the bits " << std::hex << word << " were cast wrongly");
    }
  }
  CHECK(differences == 0);
}

}  // namespace

TEST_CASE("every half is cast as half.h does it") {
  std::vector<Float16> halves(0x10000);
  std::vector<Bfloat16> brains(0x10000);
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    halves[bits].bits = static_cast<std::uint16_t>(bits);
    brains[bits].bits = static_cast<std::uint16_t>(bits);
  }
  check_cast<float>(halves);
  check_cast<float>(brains);
  check_cast<Bfloat16>(halves);
  check_cast<Float16>(brains);
}

TEST_CASE("fp32 of every exponent is rounded as half.h does it") {
  // All leading bits that a half keeps, with what decides the rounding below them.
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 1u << 19; ++upper) {
    for (const std::uint32_t lower : {0x0u, 0x1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      values.push_back(std::bit_cast<float>(upper << 13 | lower));
    }
  }
  check_cast<Float16>(values);
  values.clear();
  for (std::uint32_t upper = 0; upper < 1u << 16; ++upper) {
    for (const std::uint32_t lower : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  check_cast<Bfloat16>(values);
  // The neighbourhood of every fp16 subnormal, where the place of the last bit moves with the exponent.
  values.clear();
  for (std::uint32_t bits = 0; bits <= 0x400; ++bits) {
    const auto middle = static_cast<float>(std::ldexp(2 * bits + 1, -25));
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1.0f)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  check_cast<Float16>(values);
}

TEST_CASE("casts of all lengths touch nothing else") {
  test::Bench bench;
  for (const Dtype to : kFloats) {
    for (const Dtype from : kFloats) {
      for (const std::int64_t count : {0, 1, 3, 7, 15, 16, 17, 33, 129, 1000}) {
        for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
          TestTensor source(from, Shape{3, count}, layout);
          fill_with_bits(source.view(), 1);
          TestTensor destination(to, Shape{3, count}, layout);
          core::copy(bench.stream(), destination.view(), source.view());
          CHECK(first_difference(destination.view(), source.view()) == -1);
          CHECK(destination.intact());
        }
      }
    }
  }
}

TEST_CASE("transposes of any size, dtype and padding") {
  test::Bench bench;
  for (const Dtype from : kPlain) {
    for (const Dtype to : kPlain) {
      if (to != from && !(core::is_float(to) && core::is_float(from))) continue;
      for (const auto& [rows, columns] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {1, 1}, {1, 7}, {3, 129}, {8, 8}, {17, 33}, {64, 64}, {63, 65}, {128, 64}, {129, 200}, {9, 1030}}) {
        for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
          TestTensor source(from, Shape{columns, rows}, layout);
          fill_with_bits(source.view(), 2);
          TestTensor destination(to, Shape{rows, columns}, layout);
          core::copy(bench.stream(), destination.view(), source.view().transposed(0, 1));
          CHECK(first_difference(destination.view(), source.view().transposed(0, 1)) == -1);
          CHECK(destination.intact());

          TestTensor scattered(to, Shape{columns, rows}, layout);
          core::copy(bench.stream(), scattered.view().transposed(0, 1), destination.view());
          CHECK(first_difference(scattered.view().transposed(0, 1), destination.view()) == -1);
          CHECK(scattered.intact());
        }
      }
    }
  }
}

TEST_CASE("any order of up to six dimensions") {
  test::Bench bench;
  std::uint32_t seed = 10;
  for (int rank = 0; rank <= core::kMaxRank; ++rank) {
    for (int trial = 0; trial < 60; ++trial) {
      const auto random = [&](std::uint32_t below) { return core::philox({++seed, 0, 0, 0}, {3, 0})[0] % below; };
      std::vector<std::int64_t> extents(static_cast<std::size_t>(rank));
      // At least one dimension is long enough for a tile now and then; some are 1.
      for (auto& extent : extents) extent = 1 + random(rank <= 3 ? 40 : 5);
      if (rank > 0) extents[random(static_cast<std::uint32_t>(rank))] = 1 + random(90);
      std::vector<int> from_order(static_cast<std::size_t>(rank));
      std::iota(from_order.begin(), from_order.end(), 0);
      std::vector<int> to_order = from_order;
      for (std::size_t i = from_order.size(); i > 1; --i) {
        std::swap(from_order[i - 1], from_order[random(static_cast<std::uint32_t>(i))]);
        if (trial % 2 == 0) std::swap(to_order[i - 1], to_order[random(static_cast<std::uint32_t>(i))]);
      }
      // Memory lies in an order of its own on each side; the logical shape is the same.
      const auto stored = [&](const std::vector<int>& order) {
        std::vector<std::int64_t> shape(extents.size());
        for (std::size_t i = 0; i < order.size(); ++i) shape[static_cast<std::size_t>(order[i])] = extents[i];
        return Shape(std::span<const std::int64_t>(shape));
      };
      const Dtype from = kFloats[random(3)];
      const Dtype to = random(2) == 0 ? from : kFloats[random(3)];
      const auto layout = [&] { return random(2) == 0 ? Layout::kContiguous : Layout::kPaddedRows; };
      TestTensor source(from, stored(from_order), layout());
      fill_with_bits(source.view(), seed);
      TestTensor destination(to, stored(to_order), layout());
      const TensorView to_view = permuted(destination.view(), to_order);
      const TensorView from_view = permuted(source.view(), from_order);
      REQUIRE(to_view.shape() == from_view.shape());
      core::copy(bench.stream(), to_view, from_view);
      REQUIRE(first_difference(to_view, from_view) == -1);
      REQUIRE(destination.intact());
    }
  }
}

TEST_CASE("every second element, on both sides") {
  test::Bench bench;
  std::vector<float> from(2 * 100 * 70);
  std::iota(from.begin(), from.end(), 0.0f);
  std::vector<Bfloat16> to(3 * 100 * 70, Bfloat16{0x1234});
  const std::array<std::int64_t, 2> from_strides{140, 2};
  const std::array<std::int64_t, 2> to_strides{3, 300};
  const ConstTensorView source(from.data(), Dtype::kFloat32, Shape{100, 70}, from_strides);
  const TensorView destination(to.data(), Dtype::kBfloat16, Shape{100, 70}, to_strides);
  core::copy(bench.stream(), destination, source);
  CHECK(first_difference(destination, source) == -1);
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (i % 3 != 0) REQUIRE(to[i].bits == 0x1234);
  }
}

TEST_CASE("integers are copied as they are, int4 with its half bytes") {
  test::Bench bench;
  for (const Dtype dtype : {Dtype::kInt8, Dtype::kInt32, Dtype::kInt4}) {
    const Shape shape{5, 7};
    std::vector<double> values(35);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 16) - 8;
    const TestTensor source(dtype, shape, values);
    TestTensor destination(dtype, shape);
    core::copy(bench.stream(), destination.view(), source.view());
    CHECK(destination.values() == values);
    CHECK(destination.intact());
  }
}

TEST_CASE("copies are the same with any number of threads") {
  test::Bench bench;
  TestTensor source(Dtype::kFloat32, Shape{300, 700}, Layout::kPaddedRows);
  fill_with_bits(source.view(), 4);
  std::string first_cast;
  std::string first_transpose;
  test::with_threads([&](int) {
    TestTensor narrow(Dtype::kBfloat16, Shape{300, 700});
    core::copy(bench.stream(), narrow.view(), source.view());
    TestTensor turned(Dtype::kFloat32, Shape{700, 300});
    core::copy(bench.stream(), turned.view(), source.view().transposed(0, 1));
    if (first_cast.empty()) {
      first_cast = narrow.bytes();
      first_transpose = turned.bytes();
    }
    CHECK(narrow.bytes() == first_cast);
    CHECK(turned.bytes() == first_transpose);
  });
}

TEST_CASE("what cannot be copied is refused by name") {
  test::Bench bench;
  const TestTensor a(Dtype::kFloat32, Shape{2, 3});
  const TestTensor b(Dtype::kFloat32, Shape{3, 2});
  const TestTensor c(Dtype::kInt32, Shape{2, 3});
  CHECK_THROWS_WITH(core::copy(bench.stream(), a.view(), b.view()),
                    "copy: fp32[3 x 2] cannot be copied to fp32[2 x 3]");
  CHECK_THROWS_WITH(core::copy(bench.stream(), a.view(), c.view()),
                    "copy: int32[2 x 3] cannot be copied to fp32[2 x 3]");
  CHECK_THROWS_WITH(core::copy(bench.stream(), a.view(), {}), "copy: no tensor cannot be copied to fp32[2 x 3]");
  CHECK_THROWS_WITH(core::copy(bench.stream(), a.view(), a.view()), "copy: destination and source overlap");
}

TEST_CASE("filling sets every element and nothing else") {
  test::Bench bench;
  for (const Dtype dtype : kPlain) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1}, Shape{33}, Shape{5, 129}, Shape{3, 4, 7}, Shape{70000}}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
        TestTensor tensor(dtype, shape, layout);
        core::fill(bench.stream(), tensor.view(), -2.75f);
        const double expected = core::is_float(dtype) ? -2.75 : -2.0;
        for (const double value : tensor.values()) REQUIRE(value == expected);
        CHECK(tensor.intact());
      }
    }
  }
  const TestTensor turned(Dtype::kBfloat16, Shape{5, 9}, Layout::kPaddedRows);
  core::fill(bench.stream(), turned.view().transposed(0, 1), 3.0f);
  for (const double value : turned.values()) REQUIRE(value == 3.0);
  CHECK(turned.intact());

  const TestTensor small(Dtype::kInt8, Shape{2});
  CHECK_THROWS_WITH(core::fill(bench.stream(), small.view(), 128.0f), "fill: 128.000000 is no value of int8");
  CHECK_THROWS_AS(core::fill(bench.stream(), small.view(), std::numeric_limits<float>::quiet_NaN()), core::Error);
  core::fill(bench.stream(), small.view(), 127.9f);
  CHECK(small.values() == std::vector<double>{127, 127});
  const TestTensor nibbles(Dtype::kInt4, Shape{2});
  CHECK_THROWS_AS(core::fill(bench.stream(), nibbles.view(), 1.0f), core::Error);
}
