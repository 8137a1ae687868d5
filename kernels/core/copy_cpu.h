// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "kernels/core/tensor.h"

namespace braise::core::cpu {

/// copy for tensors in the machine's memory that go together and have elements.
void copy(const TensorView& destination, const ConstTensorView& source);

/// Every element = the low bits of `pattern`. Not int4.
void fill(const TensorView& tensor, std::uint32_t pattern);

/// One loop of a copy; strides in elements.
struct CopyAxis {
  std::int64_t extent = 1;
  std::int64_t to = 0;
  std::int64_t from = 0;
};

/// Loops over elements whose order does not matter, cut into pieces that any thread may do. `inner` and `across` are
/// the loops of a piece, `outer` (the outermost first) what lies around them.
struct CopyPlan {
  void* to = nullptr;
  const void* from = nullptr;
  Dtype to_dtype = Dtype::kFloat32;
  Dtype from_dtype = Dtype::kFloat32;
  CopyAxis inner;                          ///< the destination's smallest stride
  CopyAxis across;                         ///< of a transpose: the source's dimension of stride 1
  std::array<CopyAxis, kMaxRank> outer{};  ///< rank of them
  int rank = 0;
  std::int64_t inner_step = 0;   ///< elements of `inner` in a piece
  std::int64_t across_step = 0;  ///< of a transpose: elements of `across` in a piece
  std::int64_t outer_step = 1;   ///< iterations of `outer` in a piece

  std::int64_t inner_pieces() const { return (inner.extent + inner_step - 1) / inner_step; }
  std::int64_t across_pieces() const { return (across.extent + across_step - 1) / across_step; }
};

/// Where an iteration of the outer loops starts, in elements of each side.
struct CopyPlace {
  std::int64_t to = 0;
  std::int64_t from = 0;
};

/// Counts through the outer loops of a plan.
class CopyCounter {
 public:
  CopyCounter(const CopyPlan& plan, std::int64_t iteration) : plan_(plan) {
    for (int i = plan.rank - 1; i >= 0; --i) {
      const CopyAxis& axis = plan.outer[static_cast<std::size_t>(i)];
      const std::int64_t at = iteration % axis.extent;
      iteration /= axis.extent;
      index_[static_cast<std::size_t>(i)] = at;
      place_.to += at * axis.to;
      place_.from += at * axis.from;
    }
  }

  const CopyPlace& place() const { return place_; }

  void next() {
    for (int i = plan_.rank - 1; i >= 0; --i) {
      const CopyAxis& axis = plan_.outer[static_cast<std::size_t>(i)];
      std::int64_t& at = index_[static_cast<std::size_t>(i)];
      place_.to += axis.to;
      place_.from += axis.from;
      if (++at < axis.extent) return;
      place_.to -= at * axis.to;
      place_.from -= at * axis.from;
      at = 0;
    }
  }

 private:
  const CopyPlan& plan_;
  std::array<std::int64_t, kMaxRank> index_{};
  CopyPlace place_;
};

}  // namespace braise::core::cpu
