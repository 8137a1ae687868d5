// SPDX-License-Identifier: Apache-2.0
#include "stages/train/lanes.h"

#include <algorithm>
#include <array>
#include <string>

#include "kernels/comm/collectives.h"
#include "kernels/core/add.h"
#include "kernels/core/copy.h"
#include "kernels/core/round.h"

namespace braise::train {
namespace {

// Elements that are rounded, sent and summed at a time, where they are not sent as they are: some messages' worth.
constexpr std::int64_t kPiece = std::int64_t{4} << 20;

}  // namespace

GradientLanes::GradientLanes(core::Stream& stream, std::span<const core::TensorView> accumulators, std::int64_t lanes,
                             core::Dtype dtype)
    : stream_(stream), accumulators_(accumulators), lanes_(lanes), dtype_(dtype) {
  for (std::int64_t width = 1; width < lanes; width *= 2) {
    std::vector<core::Tensor>& level = waiting_.emplace_back();
    for (const core::TensorView& accumulator : accumulators) {
      level.push_back(stream.arena().tensor(dtype, accumulator.shape(), core::Category::kGradients,
                                            "sum of " + std::to_string(width) + " lanes"));
    }
  }
}

void GradientLanes::zero() {
  for (const core::TensorView& accumulator : accumulators_) core::fill(stream_, accumulator, 0);
}

/// The accumulators stay fp32, with values that the dtype has.
void GradientLanes::round() {
  for (const core::TensorView& accumulator : accumulators_) core::round_to(stream_, accumulator, dtype_);
}

void GradientLanes::begin() {
  done_ = 0;
  zero();
}

void GradientLanes::lane_done() {
  // As a binary counter carries: what waits at the lowest levels is the left neighbour of what has just been summed.
  std::size_t level = 0;
  round();
  for (; (done_ >> level) % 2 == 1; ++level) {
    for (std::size_t i = 0; i < accumulators_.size(); ++i) {
      core::add(stream_, accumulators_[i], waiting_[level][i].view);
    }
    round();
  }
  ++done_;
  if (done_ == lanes_) return;
  for (std::size_t i = 0; i < accumulators_.size(); ++i) {
    core::copy(stream_, waiting_[level][i].view, accumulators_[i]);
  }
  zero();
}

void GradientLanes::exchange(comm::Communicator& comm) {
  if (comm.size() == 1) return;
  stream_.synchronize();
  comm::Collectives data(comm, stream_.arena(), "data");
  if (dtype_ == core::Dtype::kFloat32) {
    data.all_reduce_sum(accumulators_, core::Category::kGradients).wait();
    return;
  }
  // Two pieces are on their way in turn, so that one is rounded while the other is sent.
  std::int64_t longest = 0;
  for (const core::TensorView& accumulator : accumulators_) longest = std::max(longest, accumulator.elements());
  struct Piece {
    core::Tensor memory;
    core::TensorView sent, sum;
    comm::Pending pending;
  };
  std::array<Piece, 2> pieces;
  for (Piece& piece : pieces) {
    piece.memory = stream_.arena().tensor(dtype_, core::Shape{std::min(longest, kPiece)},
                                          core::Category::kCommunication, "rounded gradients");
  }
  const auto finish = [&](Piece& piece) {
    if (!piece.sent) return;
    piece.pending.wait();
    core::copy(stream_, piece.sum, piece.sent);
    piece.sent = {};
  };
  std::size_t turn = 0;
  for (const core::TensorView& accumulator : accumulators_) {
    const core::TensorView flat = accumulator.reshaped(core::Shape{accumulator.elements()});
    for (std::int64_t begin = 0; begin < flat.elements(); begin += kPiece, turn = 1 - turn) {
      Piece& piece = pieces[turn];
      finish(piece);
      piece.sum = flat.slice(0, begin, std::min(begin + kPiece, flat.elements()));
      piece.sent = piece.memory.view.slice(0, 0, piece.sum.elements());
      core::copy(stream_, piece.sent, piece.sum);
      stream_.synchronize();
      piece.pending = data.all_reduce_sum(std::span(&piece.sent, 1), core::Category::kGradients);
    }
  }
  for (Piece& piece : pieces) finish(piece);
}

}  // namespace braise::train
