// SPDX-License-Identifier: Apache-2.0
#include "kernels/linear/matmul_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/linear/matmul_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <algorithm>

#include "kernels/activation/activation_cpu.h"
#include "kernels/core/half.h"
#include "kernels/core/rows.h"
#include "kernels/linear/product_tiles.h"
#include "kernels/linear/tile_product.h"

HWY_BEFORE_NAMESPACE();
namespace braise::linear::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;
using core::ConstTensorView;
using core::TensorView;

/// sums[j] += the tensor's element number offset + j in memory.
HWY_INLINE void add_elements(float* sums, const ConstTensorView& tensor, std::int64_t offset, std::size_t count) {
  ch::with_type(tensor.dtype(), [&](auto element) {
    const auto plus = [](auto a, auto b) { return hn::Add(a, b); };
    ch::map(plus, count, sums, sums, tensor.data<decltype(element)>() + offset);
  });
}

/// sums[j] = scale * sums[j] + bias[column + j].
HWY_INLINE void scale_and_bias(float* sums, const Epilogue& epilogue, std::int64_t column, std::size_t count) {
  if (epilogue.scale != 1) {
    const auto scale = hn::Set(ch::Vector::Tag(), epilogue.scale);
    ch::map([&](auto sum) { return hn::Mul(sum, scale); }, count, sums, sums);
  }
  if (epilogue.bias) add_elements(sums, epilogue.bias, column, count);
}

/// The epilogue without an activation, for `count` of a row's sums, in place; then they are stored in y.
void store_row(float* sums, std::int64_t row, std::int64_t column, std::size_t count, const TensorView& y,
               const Epilogue& epilogue) {
  scale_and_bias(sums, epilogue, column, count);
  if (epilogue.residual) {
    add_elements(sums, epilogue.residual, row * epilogue.residual.stride(0) + column, count);
  }
  if (epilogue.accumulate == core::Accumulate::kAdd) add_elements(sums, y, row * y.stride(0) + column, count);
  ch::with_type(y.dtype(), [&](auto element) {
    ch::convert_float(y.data<decltype(element)>() + row * y.stride(0) + column, sums, count);
  });
}

/// The same for what an activation takes: stored in `to`, of a dtype.
void store_input(float* sums, std::int64_t column, std::size_t count, void* to, core::Dtype dtype,
                 const Epilogue& epilogue) {
  scale_and_bias(sums, epilogue, column, count);
  ch::with_type(dtype, [&](auto element) { ch::convert_float(static_cast<decltype(element)*>(to), sums, count); });
}

}  // namespace braise::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::linear::cpu {
namespace {

HWY_EXPORT(store_row);
HWY_EXPORT(store_input);

/// An epilogue with an activation, for one tile.
class Activated {
 public:
  Activated(const core::TensorView& y, const Epilogue& epilogue) : y_(y), epilogue_(epilogue) {}

  void plain(const Tile& tile) const {
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      Place place;
      void* const input = input_at(place, tile.row + i, tile.column);
      store(tile.sums + i * tile.pitch, tile.column, tile.columns, input);
      activation::cpu::activate_row(y_.dtype(), *epilogue_.activation, at(y_, tile.row + i, tile.column), input,
                                    static_cast<std::size_t>(tile.columns));
    }
  }

  void gated(const Tile& tile) const {
    const std::int64_t all = y_.extent(1);
    const std::int64_t column = tile.column / kTileColumns * kGatedColumns;
    const std::int64_t each = std::min(kGatedColumns, all - column);
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      float* const sums = tile.sums + i * tile.pitch;
      Place first;
      Place second;
      void* const gate = input_at(first, tile.row + i, column);
      void* const up = input_at(second, tile.row + i, all + column);
      store(sums, column, each, gate);
      store(sums + gated_offset(each), all + column, each, up);
      activation::cpu::gate_row(y_.dtype(), *epilogue_.activation, at(y_, tile.row + i, column), gate, up,
                                static_cast<std::size_t>(each));
    }
  }

 private:
  /// Where what an activation takes stands if nobody keeps it.
  struct Place {
    alignas(64) std::byte bytes[kTileColumns * sizeof(float)];
  };

  static void* at(const core::TensorView& tensor, std::int64_t row, std::int64_t column) {
    return core::element_address(tensor, row * tensor.stride(0) + column);
  }
  void* input_at(Place& place, std::int64_t row, std::int64_t column) const {
    return epilogue_.activation_input ? at(epilogue_.activation_input, row, column) : place.bytes;
  }
  void store(float* sums, std::int64_t column, std::int64_t count, void* input) const {
    HWY_DYNAMIC_DISPATCH(store_input)
    (sums, column, static_cast<std::size_t>(count), input, y_.dtype(), epilogue_);
  }

  const core::TensorView& y_;
  const Epilogue& epilogue_;
};

}  // namespace

void matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, const void* packed,
            Columns kind, const Epilogue& epilogue) {
  if (kind == Columns::kGated) {
    const Activated activated(y, epilogue);
    const std::int64_t columns = gated_width(2 * y.extent(1));
    product_tiles(stream, x, packed, columns, 0, columns, [&](const Tile& tile) { activated.gated(tile); });
  } else if (epilogue.activation) {
    const Activated activated(y, epilogue);
    product_tiles(stream, x, packed, y.extent(1), 0, y.extent(1), [&](const Tile& tile) { activated.plain(tile); });
  } else {
    product_tiles(stream, x, packed, y.extent(1), 0, y.extent(1), [&](const Tile& tile) {
      for (std::int64_t i = 0; i < tile.rows; ++i) {
        HWY_DYNAMIC_DISPATCH(store_row)
        (tile.sums + i * tile.pitch, tile.row + i, tile.column, static_cast<std::size_t>(tile.columns), y, epilogue);
      }
    });
  }
}

}  // namespace braise::linear::cpu
#endif
