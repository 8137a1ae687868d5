// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/activation/activation.h"
#include "kernels/core/accumulate.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::linear {

/// What the columns of a right operand are. kGated: the first half the gates of a gated linear unit and the second half
/// what they let through; they are packed side by side, so that the unit's element-wise part can be done on a product's
/// tiles.
enum class Columns : std::uint8_t { kPlain, kGated };

/// The right operand of matrix products (K x N), laid out as the device multiplies it fastest: a weight is packed once
/// and used until it changes. Owns its memory.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Memory for a K x N matrix of a floating-point dtype; the content is not set. Errors: core::Error for gated columns
  /// of odd number.
  PackedMatrix(core::Arena& arena, core::Dtype dtype, std::int64_t depth, std::int64_t columns, core::Category category,
               std::string_view owner, Columns kind = Columns::kPlain);

  /// Takes the values of `b`: K x N of the same dtype, any strides, so a weight kept as outputs x inputs is given
  /// transposed. Errors: core::Error for another shape or dtype.
  void pack(core::Stream& stream, const core::ConstTensorView& b);

  core::Dtype dtype() const { return dtype_; }
  std::int64_t depth() const { return depth_; }      ///< K
  std::int64_t columns() const { return columns_; }  ///< N
  Columns kind() const { return kind_; }
  const void* data() const { return buffer_.data(); }

 private:
  core::Dtype dtype_ = core::Dtype::kFloat32;
  std::int64_t depth_ = 0;
  std::int64_t columns_ = 0;
  Columns kind_ = Columns::kPlain;
  core::Buffer buffer_;
};

/// What is done with a product before it is stored, in this order, in fp32:
///
///     v = scale * sum;  v += bias[n];  v += residual[m, n];  v += y[m, n] if accumulate is kAdd
///
/// so the bits are those of the separate operations without a rounding between. Steps that are not asked for are left
/// out (a scale of 1 too). With an activation f, which goes with neither a residual nor kAdd, v is then rounded to y's
/// dtype, as a backward pass needs it, and y = f(v); or where the right operand's columns are gated, y = f(v[m, n])
/// v[m, F + n] for the F = N / 2 columns that y then has. The bits are those of activation_forward and gated_forward.
struct Epilogue {
  float scale = 1;
  core::ConstTensorView bias;      ///< [N], floating point, contiguous
  core::ConstTensorView residual;  ///< [M, N], floating point, rows contiguous; may be y itself
  core::Accumulate accumulate = core::Accumulate::kOverwrite;
  std::optional<activation::Activation> activation;
  core::TensorView activation_input;  ///< [M, N] of y's dtype, rows contiguous: takes v; may be none
};

/// y = epilogue(x b).
/// x: [.., K], floating point, any strides of its rows and columns (a transposed view is a product with the transpose);
/// the leading dimensions are taken as rows. b: K x N of x's dtype. y: [.., N], floating point, rows contiguous; must
/// not overlap x. Sums are fp32: operands are multiplied as bf16 where they are bf16 and the tier has the instructions,
/// else as fp32.
/// Deterministic: a row of y depends on that row of x and on b alone, not on the number of rows, nor of threads; K is
/// summed in parts of 4096, in order (bf16 with AMX: as one part).
/// K may be 0 (the sum is 0). Errors: core::Error for shapes, dtypes or steps that do not go together.
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const PackedMatrix& b,
            const Epilogue& epilogue = {});

/// The same for a right operand that is used once: [K, N] of x's dtype, any strides; packed into workspace. Its columns
/// are plain. With AMX,
/// where y is fp32 and is only overwritten or added to, both operands are packed as they are used, and parts of 1024
/// of K are added to y, in order.
void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
            const core::ConstTensorView& b, const Epilogue& epilogue = {});

/// y[i] = epilogue(x[i] b[i]) for each i of a batch. x: [B, M, K], b: [B, K, N], y: [B, M, N]; bias and activation are
/// not supported, residual is [B, M, N]. All else as matmul, whose bits it gives.
void batched_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                    const core::ConstTensorView& b, const Epilogue& epilogue = {});

}  // namespace braise::linear
