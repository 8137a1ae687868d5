// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::train {

/// Sums the gradients of a step in the one order that does not depend on how it is spread: a lane's micro-batches in
/// order, in fp32, lanes by a pairwise tree, of which each rank holds an aligned part. The tensors that backward passes
/// add to are used for one lane after another; sums that wait for their partner are kept aside, in at most log2(lanes of
/// this rank) copies, counted as gradients. With a dtype other than fp32 each lane's sum, and each sum of the tree, is
/// rounded to it: that is what waits and what ranks send each other.
class GradientLanes {
 public:
  /// accumulators: fp32, contiguous; what backward passes add to. `lanes`: of this rank, a power of two. `dtype`: fp32 or
  /// bf16. All must outlive it.
  GradientLanes(core::Stream& stream, std::span<const core::TensorView> accumulators, std::int64_t lanes,
                core::Dtype dtype);

  /// Before the first micro-batch of a step.
  void begin();

  /// After the last micro-batch of each lane: after that of the last lane the accumulators hold this rank's sum, after
  /// those of the others they are zero.
  void lane_done();

  /// Then, on every rank: the accumulators hold the sum over all ranks.
  void exchange(comm::Communicator& comm);

 private:
  void zero();
  void round();

  core::Stream& stream_;
  std::span<const core::TensorView> accumulators_;
  std::int64_t lanes_;
  core::Dtype dtype_;
  std::int64_t done_ = 0;
  std::vector<std::vector<core::Tensor>> waiting_;  ///< by level of the tree
};

}  // namespace braise::train
