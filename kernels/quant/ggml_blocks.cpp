// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/ggml_blocks.h"

#include <array>

#include "kernels/quant/ggml_blocks_cpu.h"

namespace braise::quant {
namespace {

using Implementation = void (*)(const core::TensorView& out, const core::ConstTensorView& blocks);

void dequantize(core::Stream& stream, const char* operation, std::int64_t block_bytes, Implementation on_cpu,
                const core::TensorView& out, const core::ConstTensorView& blocks) {
  core::require(out && out.rank() >= 1, operation, "there are no rows");
  core::require_float_tensor(operation, "out", out, out.shape());
  const std::int64_t columns = out.extent(-1);
  core::require(columns % kGgmlBlock == 0, operation, "a row of out is not a number of whole blocks of 32");
  std::array<std::int64_t, core::kMaxRank> extents{};
  const auto rank = static_cast<std::size_t>(out.rank());
  for (std::size_t i = 0; i < rank; ++i) extents[i] = out.shape()[static_cast<int>(i)];
  extents[rank - 1] = columns / kGgmlBlock * block_bytes;
  core::require_tensor(operation, "blocks", blocks, core::Dtype::kInt8,
                       core::Shape(std::span<const std::int64_t>(extents.data(), rank)));
  core::require(out.rows_contiguous() && blocks.rows_contiguous(), operation, "the last dimension must be contiguous");
  if (out.elements() == 0) return;
  core::require_cpu(stream, operation);
  if (out.contiguous() && blocks.contiguous()) {  // short rows are then no more work than long ones
    on_cpu(out.reshaped({1, out.elements()}), blocks.reshaped({1, blocks.elements()}));
  } else {
    on_cpu(out.as_rows(), blocks.as_rows());
  }
}

}  // namespace

void dequantize_q8_0(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks) {
  dequantize(stream, "dequantize_q8_0", kQ8_0Bytes, cpu::dequantize_q8_0, out, blocks);
}

void dequantize_q4_0(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks) {
  dequantize(stream, "dequantize_q4_0", kQ4_0Bytes, cpu::dequantize_q4_0, out, blocks);
}

void dequantize_q4_1(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& blocks) {
  dequantize(stream, "dequantize_q4_1", kQ4_1Bytes, cpu::dequantize_q4_1, out, blocks);
}

}  // namespace braise::quant
