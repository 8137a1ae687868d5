// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "kernels/core/shape.h"
#include "kernels/core/tensor.h"

namespace braise::checkpoint {

/// Elements [begin, end) of a tensor, counted in row-major order.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t elements() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// The part of a tensor's elements that is dealt to one of `ranks`: equal parts as near as may be, in the order of
/// ranks, cut at multiples of core::kReductionBlock. Of small tensors some ranks get nothing.
Range share_of(std::int64_t elements, int rank, int ranks);

/// What one rank contributes of one logical tensor.
struct Piece {
  /// Where in the checkpoint: "parameters/<name>", "master/<name>", "optimizer/exp_avg/<name>", with the name that
  /// Hugging Face gives the parameter. Parts between slashes are not empty, "." or "..", and printable ASCII without
  /// '@'.
  std::string path;
  core::Shape shape;       ///< of the whole tensor
  std::int64_t begin = 0;  ///< of the range: a multiple of core::kReductionBlock
  /// The range's elements, contiguous, of any shape; not int4. It ends where another rank's begins, or the tensor ends.
  core::ConstTensorView data;
};

}  // namespace braise::checkpoint
