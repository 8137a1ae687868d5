// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/matmul_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/matmul_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <algorithm>

#include "kernels/core/half.h"
#include "kernels/linear/product_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace braise::linear::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;
using core::ConstTensorView;
using core::TensorView;

/// sums[j] += tensor[row, column + j].
HWY_INLINE void add_row(float* sums, const ConstTensorView& tensor, std::int64_t row, std::int64_t column,
                        std::size_t count) {
  const std::int64_t offset = row * tensor.stride(0) + column;
  ch::with_type(tensor.dtype(), [&](auto element) {
    const auto plus = [](auto a, auto b) { return hn::Add(a, b); };
    ch::map(plus, count, sums, sums, tensor.data<decltype(element)>() + offset);
  });
}

/// Applies the epilogue to one tile of sums, in place, and stores it in y.
void store_tile(const Tile& tile, const TensorView& y, const Epilogue& epilogue) {
  const auto count = static_cast<std::size_t>(tile.columns);
  ConstTensorView bias;
  if (epilogue.bias) bias = epilogue.bias.reshaped(core::Shape{1, epilogue.bias.elements()});
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    float* const line = tile.sums + i * tile.pitch;
    const std::int64_t row = tile.row + i;
    if (epilogue.scale != 1) {
      const auto scale = hn::Set(ch::Vector::Tag(), epilogue.scale);
      ch::map([&](auto sum) { return hn::Mul(sum, scale); }, count, line, line);
    }
    if (bias) add_row(line, bias, 0, tile.column, count);
    if (epilogue.residual) add_row(line, epilogue.residual, row, tile.column, count);
    if (epilogue.accumulate == core::Accumulate::kAdd) add_row(line, y, row, tile.column, count);
    ch::with_type(y.dtype(), [&](auto element) {
      ch::convert_float(y.data<decltype(element)>() + row * y.stride(0) + tile.column, line, count);
    });
  }
}

}  // namespace braise::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::linear::cpu {
namespace {

HWY_EXPORT(store_tile);

}  // namespace

void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const void* packed,
            const Epilogue& epilogue) {
  product_tiles(stream, x, packed, y.extent(1), 0, y.extent(1), [&](const Tile& tile) {
    HWY_DYNAMIC_DISPATCH(store_tile)(tile, y, epilogue);
  });
}

}  // namespace braise::linear::cpu
#endif
