// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/ggml_blocks.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "stages/shared/io/file.h"
#include "tests/kernels/reference/quant.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

namespace braise {
namespace {

using core::Dtype;
using core::Shape;
using test::Bench;
using test::Layout;
using test::TestTensor;

struct Format {
  const char* name;
  std::int64_t bytes;
  void (*dequantize)(core::Stream&, const core::TensorView&, const core::ConstTensorView&);
  std::vector<double> (*reference)(const std::string&);
};

const Format kFormats[] = {
    {"Q8_0", quant::kQ8_0Bytes, quant::dequantize_q8_0, reference::dequantize_q8_0},
    {"Q4_0", quant::kQ4_0Bytes, quant::dequantize_q4_0, reference::dequantize_q4_0},
    {"Q4_1", quant::kQ4_1Bytes, quant::dequantize_q4_1, reference::dequantize_q4_1},
};

/// Random bytes, of which the scales and minima are any fp16 at all.
std::string random_blocks(std::int64_t bytes, std::uint64_t seed) {
  const core::RandomStream random(seed, core::Purpose::kData, 0xb10c);
  std::string blocks(static_cast<std::size_t>(bytes), '\0');
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<char>(random.word(i) >> 24);
  return blocks;
}

std::vector<double> dequantized(const Format& format, const std::string& blocks, Dtype dtype) {
  Bench bench;
  const auto bytes = static_cast<std::int64_t>(blocks.size());
  TestTensor out(dtype, {bytes / format.bytes * quant::kGgmlBlock});
  format.dequantize(bench.stream(), out.view(), core::ConstTensorView(blocks.data(), Dtype::kInt8, {bytes}));
  CHECK(out.intact());
  return out.values();
}

TEST_CASE("known blocks of ggml") {
  // Scale 0.5 (0x3800), minimum -2 (0xc000); nibbles 0, 1, ... 15 low, 15, 14, ... 0 high.
  std::string nibbles;
  for (int i = 0; i < 16; ++i) nibbles += static_cast<char>(i | (15 - i) << 4);
  std::string bytes;
  for (int i = 0; i < 32; ++i) bytes += static_cast<char>(i == 0 ? -128 : i == 31 ? 127 : 3 * i - 40);
  const std::string scale("\x00\x38", 2), minimum("\x00\xc0", 2);
  std::vector<double> q8_0, q4_0, q4_1;
  for (int i = 0; i < 32; ++i) {
    const int nibble = i < 16 ? i : 31 - i;
    q8_0.push_back(0.5 * (i == 0 ? -128 : i == 31 ? 127 : 3 * i - 40));
    q4_0.push_back(0.5 * nibble - 4);
    q4_1.push_back(0.5 * nibble - 2);
  }
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    CHECK(dequantized(kFormats[0], scale + bytes, dtype) == q8_0);
    CHECK(dequantized(kFormats[1], scale + nibbles, dtype) == q4_0);
    CHECK(dequantized(kFormats[2], scale + minimum + nibbles, dtype) == q4_1);
  }
}

TEST_CASE("blocks with any scale are dequantized as the reference does, to the bit") {
  for (const Format& format : kFormats) {
    for (const std::int64_t blocks : {1, 2, 3, 7, 33, 1025}) {
      const std::string bytes = random_blocks(blocks * format.bytes, static_cast<std::uint64_t>(blocks));
      const auto expected = format.reference(bytes);
      for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
        CAPTURE(format.name, blocks, core::name(dtype));
        auto rounded = expected;
        for (double& value : rounded) value = test::rounded(value, dtype);
        test::check_close(dequantized(format, bytes, dtype), rounded, 0, 0);
      }
    }
  }
}

TEST_CASE("rows of blocks may be padded, at any address, many or none") {
  for (const Format& format : kFormats) {
    CAPTURE(format.name);
    Bench bench;
    const std::int64_t row_bytes = 3 * format.bytes;
    const std::int64_t pitch = row_bytes + 5;
    const std::string bytes = random_blocks(1 + 4 * pitch, 11);
    const std::array<std::int64_t, 3> strides{2 * pitch, pitch, 1};
    const core::ConstTensorView blocks(bytes.data() + 1, Dtype::kInt8, {2, 2, row_bytes}, strides);
    TestTensor out(Dtype::kFloat32, {2, 2, 96}, Layout::kPaddedRows);
    format.dequantize(bench.stream(), out.view(), blocks);
    std::vector<double> expected;
    for (std::int64_t row = 0; row < 4; ++row) {
      const auto part = format.reference(
          bytes.substr(static_cast<std::size_t>(1 + row * pitch), static_cast<std::size_t>(row_bytes)));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    test::check_close(out.values(), expected, 0, 0);
    CHECK(out.intact());

    for (const Shape& shape : {Shape{0, 96}, Shape{4, 0}}) {
      TestTensor none(Dtype::kFloat16, shape);
      const Shape no_bytes{shape[0], shape[1] / quant::kGgmlBlock * format.bytes};
      format.dequantize(bench.stream(), none.view(), core::ConstTensorView(nullptr, Dtype::kInt8, no_bytes));
    }
  }
}

TEST_CASE("threads change no bit of dequantized blocks") {
  Bench bench;
  for (const Format& format : kFormats) {
    const std::string bytes = random_blocks(5 * 700 * format.bytes, 3);
    const core::ConstTensorView blocks(bytes.data(), Dtype::kInt8, {5, 700 * format.bytes});
    for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
      std::string first;
      test::with_threads([&](int) {
        TestTensor out(Dtype::kBfloat16, {5, 22400}, layout);
        format.dequantize(bench.stream(), out.view(), blocks);
        if (first.empty()) first = out.bytes();
        CHECK(out.bytes() == first);
      });
    }
  }
}

TEST_CASE("ggml's own blocks are dequantized to the bits ggml makes of them") {
  const auto data = test::shared_data();
  if (data.empty()) {
    WARN("skipped: there is no ../shared/data");
    return;
  }
  for (const Format& format : kFormats) {
    CAPTURE(format.name);
    const auto folder = data / "quant/ggml_blocks";
    const std::string blocks = io::read_file(folder / (std::string(format.name) + ".bin"));
    const std::string expected = io::read_file(folder / (std::string(format.name) + ".f32"));
    Bench bench;
    TestTensor out(Dtype::kFloat32, {8, 512});
    const core::ConstTensorView rows(blocks.data(), Dtype::kInt8, {8, 16 * format.bytes});
    format.dequantize(bench.stream(), out.view(), rows);
    CHECK(out.bytes() == expected);
  }
}

TEST_CASE("wrong arguments of dequantize_q8_0 are named") {
  Bench bench;
  const TestTensor out(Dtype::kFloat32, {2, 64}), blocks(Dtype::kInt8, {2, 68}), odd(Dtype::kFloat32, {2, 33});
  CHECK_THROWS_WITH(quant::dequantize_q8_0(bench.stream(), odd.view(), blocks.view()),
                    Catch::Contains("dequantize_q8_0: a row of out is not a number of whole blocks"));
  CHECK_THROWS_WITH(quant::dequantize_q4_0(bench.stream(), out.view(), blocks.view()),
                    "dequantize_q4_0: blocks is int8[2 x 68], not int8[2 x 36]");
  CHECK_THROWS_WITH(quant::dequantize_q4_1(bench.stream(), blocks.view(), blocks.view()),
                    "dequantize_q4_1: out is int8[2 x 68], not fp32, bf16 or fp16 [2 x 68]");
  CHECK_THROWS_WITH(quant::dequantize_q8_0(bench.stream(), core::TensorView(), blocks.view()),
                    Catch::Contains("no rows"));
}

}  // namespace
}  // namespace braise
