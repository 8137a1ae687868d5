// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/pipeline.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/core/add.h"

namespace braise::model {

using core::Category;
using core::Tensor;

/// Streams that one other stage sends, one a micro-batch: the next is on its way while this one is used.
class Pipeline::Incoming {
 public:
  /// axis: null where nothing comes.
  Incoming(core::Arena& arena, comm::Collectives* axis, int from, std::int64_t count, const core::Shape& shape,
           core::Dtype dtype)
      : arena_(arena), axis_(axis), from_(from), left_(axis == nullptr ? 0 : count), shape_(shape), dtype_(dtype) {
    ask();
  }

  /// The next; nothing where nothing comes.
  Tensor take() {
    if (!next_.view) return {};
    pending_.wait();
    Tensor taken = std::move(next_);
    next_ = {};
    ask();
    return taken;
  }

 private:
  void ask() {
    if (left_ == 0) return;
    --left_;
    next_ = arena_.tensor(dtype_, shape_, Category::kActivations, "stream of another stage");
    pending_ = axis_->receive(next_.view, from_, Category::kActivations);
  }

  core::Arena& arena_;
  comm::Collectives* axis_;
  int from_;
  std::int64_t left_;
  core::Shape shape_;
  core::Dtype dtype_;
  Tensor next_;
  comm::Pending pending_;
};

/// Streams to one other stage: one is on its way while the next is computed.
class Pipeline::Outgoing {
 public:
  Outgoing(core::Stream& stream, comm::Collectives* axis, int to) : stream_(stream), axis_(axis), to_(to) {}

  /// Sends it; nothing is not sent.
  void give(Tensor tensor) {
    if (!tensor.view) return;
    stream_.synchronize();
    pending_.wait();
    sent_ = std::move(tensor);
    pending_ = axis_->send(sent_.view, to_, Category::kActivations);
  }

  void wait() {
    pending_.wait();
    sent_ = {};
  }

 private:
  core::Stream& stream_;
  comm::Collectives* axis_;
  int to_;
  Tensor sent_;
  comm::Pending pending_;
};

Pipeline::Pipeline(core::Stream& stream, Decoder& decoder, comm::Communicator& stages)
    : stream_(stream), decoder_(decoder), rank_(stages.rank()), stages_(stages.size()) {
  if (stages_ == 1) return;
  axis_ = std::make_unique<comm::Collectives>(stages, stream.arena(), "pipeline");
  if (!decoder.config().tied) return;
  const bool is_end = is_first() || is_last();
  ends_comm_ = stages.split(is_end ? std::vector<int>{0, stages_ - 1} : std::vector<int>{rank_});
  if (is_end) ends_ = std::make_unique<comm::Collectives>(*ends_comm_, stream.arena(), "pipeline");
}

Pipeline::~Pipeline() = default;

void Pipeline::run(const Work& work) {
  if (work.micro_batches == 0) return;
  const Batch first = work.batch(0);
  const core::Shape shape = decoder_.stream_shape(first);
  const core::Dtype dtype = decoder_.parameters().front().value.dtype();
  comm::Collectives* const before = is_first() ? nullptr : axis_.get();
  comm::Collectives* const after = is_last() ? nullptr : axis_.get();
  const std::int64_t count = work.micro_batches;
  Incoming inputs(stream_.arena(), before, rank_ - 1, count, shape, dtype);
  Incoming gradients(stream_.arena(), after, rank_ + 1, count, shape, dtype);
  Outgoing outputs(stream_, after, rank_ + 1);
  Outgoing gradients_back(stream_, before, rank_ - 1);

  std::deque<Decoder::Pass> passes;
  std::int64_t forward = 0, backward = 0;
  const auto go_forward = [&] {
    Tensor input = inputs.take();
    work.begin_forward(forward);
    const core::TensorView losses = is_last() ? work.losses : core::TensorView();
    outputs.give(
        decoder_.forward_part(&passes.emplace_back(), std::move(input), losses, work.batch(forward), work.loss));
    work.forward_done(forward++);
  };
  const auto go_backward = [&] {
    Tensor gradient = gradients.take();
    work.begin_backward(backward);
    const core::ConstTensorView weights = is_last() ? work.weights : core::ConstTensorView();
    gradients_back.give(
        decoder_.backward_part(passes.front(), std::move(gradient), weights, work.batch(backward), work.loss));
    passes.pop_front();
    work.backward_done(backward++);
  };
  const std::int64_t ahead = std::min<std::int64_t>(count, stages_ - 1 - rank_);
  while (forward < ahead) go_forward();
  while (forward < count) {
    go_forward();
    go_backward();
  }
  while (backward < count) go_backward();
  outputs.wait();
  gradients_back.wait();
}

void Pipeline::evaluate(const core::TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings) {
  Tensor input;
  if (!is_first()) {
    input = stream_.arena().tensor(decoder_.parameters().front().value.dtype(), decoder_.stream_shape(batch),
                                   Category::kActivations, "stream of another stage");
    axis_->receive(input.view, rank_ - 1, Category::kActivations).wait();
  }
  const Tensor output =
      decoder_.forward_part(nullptr, std::move(input), is_last() ? losses : core::TensorView(), batch, settings);
  if (is_last()) return;
  stream_.synchronize();
  axis_->send(output.view, rank_ + 1, Category::kActivations).wait();
}

void Pipeline::add_other_end(const core::TensorView& gradient) {
  if (gradient.elements() == 0) return;
  stream_.synchronize();
  const int other = 1 - ends_->rank();
  const Tensor theirs =
      stream_.arena().tensor(gradient.dtype(), gradient.shape(), Category::kCommunication, "gradient of the other end");
  comm::Pending sent = ends_->send(gradient, other, Category::kGradients);
  ends_->receive(theirs.view, other, Category::kGradients).wait();
  sent.wait();
  core::add(stream_, gradient, theirs.view);
}

}  // namespace braise::model
