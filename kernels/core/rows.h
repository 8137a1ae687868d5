// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// Where the rows of a tensor begin: the rows are along the last dimension, contiguous each, and lie as the other
/// dimensions' strides say; they are numbered in row-major order. A scalar is one row of one element.
class Rows {
 public:
  /// Errors: core::Error "<operation>: <argument> ..." if a row is not contiguous.
  Rows(const char* operation, const char* argument, const ConstTensorView& tensor) {
    if (!tensor.rows_contiguous()) {
      throw Error(std::string(operation) + ": " + argument + " is " + tensor.text() +
                  ", whose last dimension is not contiguous");
    }
    columns_ = tensor.rank() == 0 ? 1 : tensor.extent(-1);
    for (int i = tensor.rank() - 2; i >= 0; --i) {
      if (tensor.extent(i) == 1) continue;
      Axis& inner = axes_[static_cast<std::size_t>(std::max(rank_ - 1, 0))];
      if (rank_ > 0 && tensor.stride(i) == inner.extent * inner.stride) {
        inner.extent *= tensor.extent(i);
      } else {
        axes_[static_cast<std::size_t>(rank_++)] = {tensor.extent(i), tensor.stride(i)};
      }
      count_ *= tensor.extent(i);
    }
    if (columns_ == 0) count_ = 0;
    gapless_ = count_ <= 1 || (rank_ == 1 && axes_[0].stride == columns_);
  }

  std::int64_t count() const { return count_; }
  std::int64_t columns() const { return columns_; }

  /// Whether each row begins where the one before ends.
  bool gapless() const { return gapless_; }

  /// The first element of a row, in elements from the first of the tensor.
  std::int64_t offset(std::int64_t row) const {
    if (rank_ <= 1) return row * axes_[0].stride;
    std::int64_t offset = 0;
    for (int i = 0; i < rank_; ++i) {
      const Axis& axis = axes_[static_cast<std::size_t>(i)];
      offset += row % axis.extent * axis.stride;
      row /= axis.extent;
    }
    return offset;
  }

 private:
  struct Axis {
    std::int64_t extent = 1;
    std::int64_t stride = 0;
  };
  std::array<Axis, kMaxRank> axes_{};  // innermost first; those that lie evenly are one
  int rank_ = 0;
  std::int64_t count_ = 1;
  std::int64_t columns_ = 1;
  bool gapless_ = true;
};

/// For operations on single elements: calls `work(offsets, element, count)` for pieces of rows of tensors of one shape,
/// shared among threads. `offsets[k]`: where the piece begins in tensor k, in elements; `element`: its first element's
/// row-major index in the shape.
template <std::size_t kTensors, class Work>
void for_pieces_of_rows(const std::array<Rows, kTensors>& tensors, const Work& work) {
  constexpr std::int64_t kPiece = 4096;
  const bool gapless = std::all_of(tensors.begin(), tensors.end(), [](const Rows& rows) { return rows.gapless(); });
  const std::int64_t rows = gapless ? 1 : tensors[0].count();
  const std::int64_t columns = gapless ? tensors[0].count() * tensors[0].columns() : tensors[0].columns();
  const std::int64_t pieces = (columns + kPiece - 1) / kPiece;
  parallel_for(rows * pieces, [&](std::int64_t i) {
    const std::int64_t row = i / pieces;
    const std::int64_t begin = i % pieces * kPiece;
    std::array<std::int64_t, kTensors> offsets;
    for (std::size_t k = 0; k < kTensors; ++k) offsets[k] = tensors[k].offset(row) + begin;
    work(offsets, row * columns + begin, std::min(kPiece, columns - begin));
  });
}

/// The address of an element that is whole bytes.
inline void* element_address(const TensorView& tensor, std::int64_t offset) {
  return static_cast<std::byte*>(tensor.raw()) + offset * (bits(tensor.dtype()) / 8);
}
inline const void* element_address(const ConstTensorView& tensor, std::int64_t offset) {
  return static_cast<const std::byte*>(tensor.raw()) + offset * (bits(tensor.dtype()) / 8);
}

}  // namespace braise::core
