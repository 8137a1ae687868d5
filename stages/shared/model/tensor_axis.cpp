// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/tensor_axis.h"

#include <utility>
#include <vector>

#include "kernels/core/error.h"

namespace braise::model {
namespace {

using core::Category;
using core::ConstTensorView;
using core::Shape;
using core::Tensor;
using core::TensorView;

std::vector<comm::Range> times(std::vector<comm::Range> ranges, std::int64_t factor) {
  for (comm::Range& range : ranges) range = {range.begin * factor, range.end * factor};
  return ranges;
}

}  // namespace

TensorAxis::TensorAxis(comm::Communicator& comm, core::Stream& stream, int kv_copies)
    : stream_(stream), all_(comm, stream.arena(), "tensor") {
  if (kv_copies == 1) return;
  std::vector<int> ranks;
  for (int i = 0; i < kv_copies; ++i) ranks.push_back(comm.rank() / kv_copies * kv_copies + i);
  copies_comm_ = comm.split(ranks);
  copies_ = std::make_unique<comm::Collectives>(*copies_comm_, stream.arena(), "tensor");
}

TensorAxis::~TensorAxis() = default;

comm::Range TensorAxis::rows(std::int64_t rows) const {
  if (rows < width()) {
    throw core::Error("a batch: " + std::to_string(rows) + " tokens, which cannot be dealt to " +
                      std::to_string(width()) + " ranks of the tensor axis");
  }
  return comm::even_ranges(rows, width(), 1)[static_cast<std::size_t>(rank())];
}

const ConstTensorView& TensorAxis::Gathered::wait() {
  pending_.wait();
  return view_;
}

TensorAxis::Gathered TensorAxis::alone(const ConstTensorView& rows) {
  Gathered gathered;
  gathered.view_ = rows;
  return gathered;
}

TensorAxis::Gathered TensorAxis::gather(const ConstTensorView& local, const Shape& shape, const std::string& owner) {
  stream_.synchronize();
  Gathered gathered;
  gathered.own_ = stream_.arena().tensor(local.dtype(), shape, Category::kActivations, owner + " gathered");
  gathered.view_ = gathered.own_.view;
  const std::int64_t width = shape[shape.rank() - 1];
  const auto owned = times(comm::even_ranges(shape.elements() / width, all_.size(), 1), width);
  gathered.pending_ = all_.all_gather(local.reshaped(Shape{local.elements()}), owned, std::span(&gathered.own_.view, 1),
                                      Category::kActivations);
  return gathered;
}

Tensor TensorAxis::Scattered::wait() {
  pending_.wait();
  terms_ = {};
  return std::move(mine_);
}

TensorAxis::Scattered TensorAxis::scatter_sum(Tensor terms, const std::string& owner) {
  stream_.synchronize();
  const std::int64_t width = terms.view.extent(-1);
  const std::int64_t count = terms.view.elements() / width;
  const comm::Range mine = rows(count);
  Scattered scattered;
  scattered.terms_ = std::move(terms);
  scattered.mine_ = stream_.arena().tensor(core::Dtype::kFloat32, Shape{1, mine.size(), width}, Category::kActivations,
                                           owner + " sum");
  scattered.pending_ = all_.reduce_scatter_sum(
      std::span(&scattered.terms_.view, 1), times(comm::even_ranges(count, all_.size(), 1), width),
      scattered.mine_.view.reshaped(Shape{mine.size() * width}), core::Accumulate::kOverwrite, Category::kActivations);
  return scattered;
}

void TensorAxis::exchange(const ConstTensorView& mine, const TensorView& all) {
  stream_.synchronize();
  const std::int64_t size = mine.elements();
  all_.all_gather(mine.reshaped(Shape{size}), times(comm::even_ranges(all_.size(), all_.size(), 1), size),
                  std::span(&all, 1), Category::kActivations)
      .wait();
}

void TensorAxis::sum(std::span<const TensorView> tensors) {
  stream_.synchronize();
  all_.all_reduce_sum(tensors, Category::kGradients).wait();
}

void TensorAxis::sum_copies(std::span<const TensorView> tensors) {
  if (copies_ == nullptr) return;
  stream_.synchronize();
  copies_->all_reduce_sum(tensors, Category::kGradients).wait();
}

}  // namespace braise::model
