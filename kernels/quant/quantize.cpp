// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/quantize.h"

#include <array>
#include <string>

#include "kernels/core/error.h"
#include "kernels/quant/quantize_cpu.h"

namespace braise::quant {
namespace {

void check(const char* operation, const char* values_name, const core::ConstTensorView& values,
           const core::ConstTensorView& q, const core::ConstTensorView& scales, std::int64_t group) {
  core::require(group >= 1, operation, "a group has at least one element");
  core::require(values && values.rank() >= 1, operation, "there are no rows");
  core::require_float_tensor(operation, values_name, values, values.shape());
  if (!q || (q.dtype() != core::Dtype::kInt8 && q.dtype() != core::Dtype::kInt4) || q.shape() != values.shape()) {
    throw core::Error(std::string(operation) + ": q is " + q.text() + ", not int8 or int4 [" + values.shape().text() +
                      "]");
  }
  std::array<std::int64_t, core::kMaxRank> extents{};
  const auto last = static_cast<std::size_t>(values.rank() - 1);
  for (std::size_t i = 0; i < last; ++i) extents[i] = values.shape()[static_cast<int>(i)];
  const std::int64_t columns = values.extent(-1);
  extents[last] = columns / group + (columns % group != 0);
  core::require_tensor(operation, "scales", scales, core::Dtype::kFloat32,
                       core::Shape(std::span<const std::int64_t>(extents.data(), last + 1)));
  core::require(values.rows_contiguous() && q.rows_contiguous() && scales.rows_contiguous(), operation,
                "the last dimension must be contiguous");
}

}  // namespace

void quantize_groups(core::Stream& stream, const core::TensorView& q, const core::TensorView& scales,
                     const core::ConstTensorView& x, std::int64_t group) {
  check("quantize_groups", "x", x, q, scales, group);
  if (x.elements() == 0) return;
  core::require_cpu(stream, "quantize_groups");
  cpu::quantize_groups(q.as_rows(), scales.as_rows(), x.as_rows(), group);
}

void dequantize_groups(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& q,
                       const core::ConstTensorView& scales, std::int64_t group) {
  check("dequantize_groups", "out", out, q, scales, group);
  if (out.elements() == 0) return;
  core::require_cpu(stream, "dequantize_groups");
  cpu::dequantize_groups(out.as_rows(), q.as_rows(), scales.as_rows(), group);
}

}  // namespace braise::quant
