// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/core/accumulate.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::linear {

/// The right operand of matrix products (K x N), laid out as the device multiplies it fastest: a weight is packed once
/// and used until it changes. Owns its memory.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Memory for a K x N matrix of a floating-point dtype; the content is not set.
  PackedMatrix(core::Arena& arena, core::Dtype dtype, std::int64_t depth, std::int64_t columns, core::Category category,
               std::string_view owner);

  /// Takes the values of `b`: K x N of the same dtype, any strides, so a weight kept as outputs x inputs is given
  /// transposed. Errors: core::Error for another shape or dtype.
  void pack(core::Stream& stream, const core::ConstTensorView& b);

  core::Dtype dtype() const { return dtype_; }
  std::int64_t depth() const { return depth_; }      ///< K
  std::int64_t columns() const { return columns_; }  ///< N
  const void* data() const { return buffer_.data(); }

 private:
  core::Dtype dtype_ = core::Dtype::kFloat32;
  std::int64_t depth_ = 0;
  std::int64_t columns_ = 0;
  core::Buffer buffer_;
};

/// What is done with a product before it is stored, in this order, in fp32:
///
///     v = scale * sum;  v += bias[n];  v += residual[m, n];  v += y[m, n] if accumulate is kAdd
///
/// so the bits are those of the separate operations without a rounding between. Steps that are not asked for are left
/// out (a scale of 1 too).
struct Epilogue {
  float scale = 1;
  core::ConstTensorView bias;      ///< [N], floating point
  core::ConstTensorView residual;  ///< [M, N], floating point, rows contiguous; may be y itself
  core::Accumulate accumulate = core::Accumulate::kOverwrite;
};

/// y = epilogue(x b).
/// x: [.., K], floating point, any strides of its rows and columns (a transposed view is a product with the transpose);
/// the leading dimensions are taken as rows. b: K x N of x's dtype. y: [.., N], floating point, rows contiguous; must
/// not overlap x. Sums are fp32: operands are multiplied as bf16 where they are bf16 and the tier has the instructions,
/// else as fp32.
/// Deterministic: a row of y depends on that row of x and on b alone, not on the number of rows, nor of threads; K is
/// summed in parts of 4096, in order (bf16 with AMX: as one part).
/// K may be 0 (the sum is 0). Errors: core::Error for shapes or dtypes that do not go together.
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const PackedMatrix& b,
            const Epilogue& epilogue = {});

/// The same for a right operand that is used once: [K, N] of x's dtype, any strides; packed into workspace. With AMX,
/// where y is fp32 and is only overwritten or added to, both operands are packed as they are used, and parts of 1024
/// of K are added to y, in order.
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
            const core::ConstTensorView& b, const Epilogue& epilogue = {});

/// y[i] = epilogue(x[i] b[i]) for each i of a batch. x: [B, M, K], b: [B, K, N], y: [B, M, N]; bias is not supported,
/// residual is [B, M, N]. All else as matmul, whose bits it gives.
void batched_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                    const core::ConstTensorView& b, const Epilogue& epilogue = {});

}  // namespace braise::linear
