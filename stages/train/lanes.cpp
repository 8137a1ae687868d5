// SPDX-License-Identifier: Apache-2.0
#include "stages/train/lanes.h"

#include <string>

#include "kernels/comm/all_reduce.h"
#include "kernels/core/add.h"
#include "kernels/core/copy.h"

namespace braise::train {

GradientLanes::GradientLanes(core::Stream& stream, std::span<const core::TensorView> accumulators, std::int64_t lanes)
    : stream_(stream), accumulators_(accumulators), lanes_(lanes) {
  for (std::int64_t width = 1; width < lanes; width *= 2) {
    std::vector<core::Tensor>& level = waiting_.emplace_back();
    for (const core::TensorView& accumulator : accumulators) {
      level.push_back(stream.arena().tensor(core::Dtype::kFloat32, accumulator.shape(), core::Category::kGradients,
                                            "sum of " + std::to_string(width) + " lanes"));
    }
  }
}

void GradientLanes::zero() {
  for (const core::TensorView& accumulator : accumulators_) core::fill(stream_, accumulator, 0);
}

void GradientLanes::begin() {
  done_ = 0;
  zero();
}

void GradientLanes::lane_done() {
  // As a binary counter carries: what waits at the lowest levels is the left neighbour of what has just been summed.
  std::size_t level = 0;
  for (; (done_ >> level) % 2 == 1; ++level) {
    for (std::size_t i = 0; i < accumulators_.size(); ++i) {
      core::add(stream_, accumulators_[i], waiting_[level][i].view);
    }
  }
  ++done_;
  if (done_ == lanes_) return;
  for (std::size_t i = 0; i < accumulators_.size(); ++i) {
    core::copy(stream_, waiting_[level][i].view, accumulators_[i]);
  }
  zero();
}

void GradientLanes::exchange(comm::Communicator& comm) {
  comm::all_reduce_sum(comm, stream_, accumulators_);
}

}  // namespace braise::train
