// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace braise::quant::cpu {

/// The operations of quantize.h for checked arguments, each rows x C with elements.
void quantize_groups(const core::TensorView& q, const core::TensorView& scales, const core::ConstTensorView& x,
                     std::int64_t group);
void dequantize_groups(const core::TensorView& out, const core::ConstTensorView& q, const core::ConstTensorView& scales,
                       std::int64_t group);

/// A piece of one row: some whole groups. Pointers are to the row's first element; columns [begin, end).
struct QuantizePiece {
  const void* x = nullptr;
  core::Dtype x_dtype = core::Dtype::kFloat32;
  void* q = nullptr;
  bool packed = false;  ///< int4
  float* scales = nullptr;
  std::int64_t group = 1;
  std::int64_t begin = 0;  ///< even
  std::int64_t end = 0;
};

struct DequantizePiece {
  void* out = nullptr;
  core::Dtype out_dtype = core::Dtype::kFloat32;
  const void* q = nullptr;
  bool packed = false;
  const float* scales = nullptr;
  std::int64_t group = 1;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

}  // namespace braise::quant::cpu
