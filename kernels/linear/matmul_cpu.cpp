// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/matmul_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/matmul_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_float-inl.h"

#include <algorithm>

#include "kernels/core/half.h"
#include "kernels/linear/product_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace braise::linear::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;
using core::ConstTensorView;
using core::Dtype;
using core::TensorView;

template <class Work>
HWY_INLINE void with_pointer(const ConstTensorView& tensor, std::int64_t row, std::int64_t column, const Work& work) {
  const std::int64_t offset = row * tensor.stride(0) + column;
  switch (tensor.dtype()) {
    case Dtype::kFloat32:
      return work(tensor.data<float>() + offset);
    case Dtype::kBfloat16:
      return work(tensor.data<core::Bfloat16>() + offset);
    default:
      return work(tensor.data<core::Float16>() + offset);
  }
}

/// sums[i] += values[i].
template <class T>
HWY_INLINE void add_row(float* sums, const T* values, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, sums + i), ch::load_float(d, values + i)), d, sums + i);
  }
  for (; i < count; ++i) sums[i] += core::to_float(values[i]);
}

/// Applies the epilogue to one tile of sums, in place, and stores it in y.
void store_tile(const Tile& tile, const TensorView& y, const Epilogue& epilogue) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  const auto count = static_cast<std::size_t>(tile.columns);
  ConstTensorView bias;
  if (epilogue.bias) bias = epilogue.bias.reshaped(core::Shape{1, epilogue.bias.elements()});
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    float* const line = tile.sums + i * tile.pitch;
    if (epilogue.scale != 1) {
      const auto scale = hn::Set(d, epilogue.scale);
      std::size_t j = 0;
      for (; j + lanes <= count; j += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, line + j), scale), d, line + j);
      for (; j < count; ++j) line[j] *= epilogue.scale;
    }
    if (epilogue.bias) {
      with_pointer(bias, 0, tile.column, [&](const auto* values) { add_row(line, values, count); });
    }
    if (epilogue.residual) {
      with_pointer(epilogue.residual, tile.row + i, tile.column,
                   [&](const auto* values) { add_row(line, values, count); });
    }
    with_pointer(y, tile.row + i, tile.column, [&](const auto* place) {
      auto* const to = const_cast<std::remove_const_t<std::remove_pointer_t<decltype(place)>>*>(place);
      if (epilogue.accumulate == core::Accumulate::kAdd) add_row(line, to, count);
      ch::convert_float(to, line, count);
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
