// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/matmul.h"

#include <string>

#include "kernels/core/error.h"
#include "kernels/linear/matmul_cpu.h"
#include "kernels/linear/product_in_place.h"

namespace braise::linear {
namespace {

using core::ConstTensorView;
using core::Shape;
using core::TensorView;

constexpr const char* kMatmul = "matmul";

/// `columns`: N, which with gated columns y has half of.
void check_epilogue(const Epilogue& epilogue, const TensorView& out, std::int64_t columns) {
  const Shape& y = out.shape();
  if (epilogue.bias) {
    core::require_float_tensor(kMatmul, "bias", epilogue.bias, Shape{columns});
    core::require(epilogue.bias.contiguous(), kMatmul, "bias is not contiguous");
  }
  if (epilogue.activation) {
    core::require(!epilogue.residual && epilogue.accumulate == core::Accumulate::kOverwrite, kMatmul,
                  "an activation goes with neither a residual nor an addition to y");
  } else {
    core::require(!epilogue.activation_input, kMatmul, "activation_input is given without an activation");
  }
  if (epilogue.activation_input) {
    const TensorView& input = epilogue.activation_input;
    core::require(input.dtype() == out.dtype() && input.rank() == y.rank() && input.extent(-1) == columns &&
                      input.rows_contiguous(),
                  kMatmul,
                  "activation_input must have y's dtype and leading dimensions, N columns and contiguous rows");
    for (int i = 0; i + 1 < y.rank(); ++i) {
      core::require(input.extent(i) == y[i], kMatmul, "activation_input and y differ in rows");
    }
  }
  if (!epilogue.residual) return;
  core::require_float_tensor(kMatmul, "residual", epilogue.residual, y);
  core::require(epilogue.residual.rows_contiguous(), kMatmul, "the rows of residual are not contiguous");
}

/// x [.., K], b [K, N] -> y [.., N].
void check(const TensorView& y, const ConstTensorView& x, core::Dtype dtype, std::int64_t depth, std::int64_t columns,
           Columns kind, const Epilogue& epilogue) {
  core::require(x && x.rank() >= 1, kMatmul, "x needs a dimension");
  if (x.dtype() != dtype || !core::is_float(dtype) || x.extent(-1) != depth) {
    throw core::Error(std::string(kMatmul) + ": x is " + x.text() + " and b is " + std::string(core::name(dtype)) +
                      "[" + Shape{depth, columns}.text() + "]; they must have one floating-point dtype and one K");
  }
  const bool gated = kind == Columns::kGated;
  core::require(!gated || epilogue.activation, kMatmul, "a product with gated columns needs an activation");
  core::require(
      y && core::is_float(y.dtype()) && y.rank() == x.rank() && y.extent(-1) == (gated ? columns / 2 : columns) &&
          y.rows_contiguous(),
      kMatmul,
      "y must have x's leading dimensions, N columns (N / 2 where they are gated), a floating-point dtype and "
      "contiguous rows");
  for (int i = 0; i + 1 < x.rank(); ++i) core::require(x.extent(i) == y.extent(i), kMatmul, "x and y differ in rows");
  check_epilogue(epilogue, y, columns);
}

ConstTensorView as_matrix(const ConstTensorView& tensor) {
  return tensor.rank() == 2 ? tensor : tensor.as_rows();
}
TensorView as_matrix(const TensorView& tensor) {
  return tensor.rank() == 2 ? tensor : tensor.as_rows();
}

void run(core::Stream& stream, const TensorView& y, const ConstTensorView& x, const void* packed, Columns kind,
         const Epilogue& epilogue) {
  Epilogue rows = epilogue;
  if (epilogue.residual) rows.residual = as_matrix(epilogue.residual);
  if (epilogue.activation_input) rows.activation_input = as_matrix(epilogue.activation_input);
  cpu::matmul(stream, as_matrix(y), as_matrix(x), packed, kind, rows);
}

}  // namespace

PackedMatrix::PackedMatrix(core::Arena& arena, core::Dtype dtype, std::int64_t depth, std::int64_t columns,
                           core::Category category, std::string_view owner, Columns kind)
    : dtype_(dtype), depth_(depth), columns_(columns), kind_(kind) {
  const bool gated = kind == Columns::kGated;
  core::require(!gated || columns % 2 == 0, "PackedMatrix", "gated columns must be even in number");
  buffer_ =
      arena.allocate(cpu::packed_bytes(dtype, depth, gated ? cpu::gated_width(columns) : columns), category, owner);
}

void PackedMatrix::pack(core::Stream& stream, const ConstTensorView& b) {
  core::require_tensor("PackedMatrix::pack", "b", b, dtype_, Shape{depth_, columns_});
  core::require_cpu(stream, "PackedMatrix::pack");
  if (kind_ == Columns::kGated) {
    cpu::pack_gated(buffer_.data(), b);
  } else {
    cpu::pack(buffer_.data(), b);
  }
}

void matmul(core::Stream& stream, const TensorView& y, const ConstTensorView& x, const PackedMatrix& b,
            const Epilogue& epilogue) {
  check(y, x, b.dtype(), b.depth(), b.columns(), b.kind(), epilogue);
  core::require_cpu(stream, kMatmul);
  run(stream, y, x, b.data(), b.kind(), epilogue);
}

void matmul(core::Stream& stream, const TensorView& y, const ConstTensorView& x, const ConstTensorView& b,
            const Epilogue& epilogue) {
  core::require(b && b.rank() == 2, kMatmul, "b needs two dimensions");
  check(y, x, b.dtype(), b.extent(0), b.extent(1), Columns::kPlain, epilogue);
  core::require_cpu(stream, kMatmul);
  const bool plain = epilogue.scale == 1 && !epilogue.bias && !epilogue.residual && !epilogue.activation;
  if (plain && y.dtype() == core::Dtype::kFloat32 && b.extent(0) > 0 && cpu::has_product_in_place(b.dtype())) {
    return cpu::product_in_place(stream, as_matrix(y), as_matrix(x), b, epilogue.accumulate);
  }
  const core::Buffer packed = stream.arena().allocate(cpu::packed_bytes(b.dtype(), b.extent(0), b.extent(1)),
                                                      core::Category::kWorkspace, kMatmul);
  cpu::pack(packed.data(), b);
  run(stream, y, x, packed.data(), Columns::kPlain, epilogue);
}

void batched_matmul(core::Stream& stream, const TensorView& y, const ConstTensorView& x, const ConstTensorView& b,
                    const Epilogue& epilogue) {
  constexpr const char* kName = "batched_matmul";
  core::require(y && x && b && y.rank() == 3 && x.rank() == 3 && b.rank() == 3, kName,
                "x, b and y need three dimensions");
  core::require(x.extent(0) == y.extent(0) && b.extent(0) == y.extent(0), kName, "x, b and y differ in batch");
  core::require(!epilogue.bias && !epilogue.activation, kName, "a bias or an activation is not supported");
  if (epilogue.residual) core::require_float_tensor(kName, "residual", epilogue.residual, y.shape());
  for (std::int64_t i = 0; i < y.extent(0); ++i) {
    Epilogue one = epilogue;
    if (epilogue.residual) one.residual = epilogue.residual.select(0, i);
    matmul(stream, y.select(0, i), x.select(0, i), b.select(0, i), one);
  }
}

}  // namespace braise::linear
