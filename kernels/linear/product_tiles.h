// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::linear::cpu {

/// One tile of a product, as fp32 sums, in a thread's own memory: whoever is called with it may change it.
struct Tile {
  float* sums;           ///< element (i, j) at sums[i * pitch + j]
  std::int64_t pitch;    ///< a multiple of 64
  std::int64_t row;      ///< of the product, of sums[0]
  std::int64_t rows;     ///< at most 128
  std::int64_t column;   ///< of the product, of sums[0]: a multiple of 256
  std::int64_t columns;  ///< at most 256
};

/// Computes columns [begin, end) of x b tile by tile and calls `consume` with each, once, from the OpenMP threads at
/// the same time. So what is done with a product needs no memory for it. x: [M, K], any strides. `packed`: b, K x N as
/// PackedMatrix lays it out for x's dtype. `begin`: a multiple of 256; `end`: one too, or N. The tiles, and their bits,
/// are the same whatever the threads. `consume` must not throw.
void product_tiles(core::Stream& stream, const core::ConstTensorView& x, const void* packed, std::int64_t columns,
                   std::int64_t begin, std::int64_t end, const std::function<void(const Tile&)>& consume);

}  // namespace braise::linear::cpu
