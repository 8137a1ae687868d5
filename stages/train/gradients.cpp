// SPDX-License-Identifier: Apache-2.0
#include "stages/train/gradients.h"

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/core/add.h"
#include "kernels/core/copy.h"

namespace braise::train {

using core::Accumulate;
using core::Category;
using core::Dtype;
using core::Shape;
using core::TensorView;

Gradients::Gradients(core::Stream& stream, comm::Collectives* axis, model::Decoder& decoder, const Shards& owners,
                     int rank, const How& how)
    : stream_(stream),
      axis_(axis),
      decoder_(decoder),
      owners_(owners),
      rank_(rank),
      how_(how),
      apart_(how.zero >= 2 || how.reduction == Reduction::kMicro) {
  const std::size_t units = decoder.units().all.size();
  sums_.resize(units);
  results_.resize(units);
  for (std::int64_t width = 1; width < how.lanes.lanes_per_rank; width *= 2) waiting_.emplace_back(units);
  if (how.home != Home::kNvme) return;
  std::vector<std::int64_t> elements;
  for (int unit = 0; unit < decoder.units().size(); ++unit) elements.push_back(owners.range(unit, rank).size());
  file_ = std::make_unique<UnitFile>(stream, *how.host, how.disk, elements, result_dtype(), Category::kGradients);
  window_ = std::make_unique<UnitWindow>(stream, *file_, false);
}

void Gradients::begin_step() {
  // What a step that failed may have left.
  on_the_way_.clear();
  reading_.clear();
  end_step();
  for (std::vector<core::Tensor>& level : waiting_) {
    for (core::Tensor& one : level) one = {};
  }
}

void Gradients::end_step() {
  if (window_ != nullptr) window_->close();
  for (int unit = 0; unit < decoder_.units().size(); ++unit) {
    decoder_.place_gradients(unit, {});
    sum(unit) = {};
    result(unit) = {};
  }
}

void Gradients::begin_micro_batch(std::int64_t lane, std::int64_t micro_batch) {
  lane_ = lane;
  micro_batch_ = micro_batch;
}

void Gradients::need(int unit) {
  while (std::ranges::find(on_the_way_, unit, &OnTheWay::unit) != on_the_way_.end()) wait_for_first();
  core::Tensor& memory = sum(unit);
  if (!memory.view) {
    const model::Unit& needed = decoder_.units().at(unit);
    // What goes as soon as it has been sent is no gradient that is kept.
    const bool passes = is_lane_end() && (how_.dtype != Dtype::kFloat32 || (apart_ && is_last_lane()));
    memory =
        stream_.arena().tensor(Dtype::kFloat32, Shape{needed.elements},
                               passes ? Category::kCommunication : Category::kGradients, needed.name + " gradient");
    core::fill(stream_, memory.view, 0);
  }
  decoder_.place_gradients(unit, memory.view);
  if (file_ != nullptr && is_lane_end() && is_last_lane() && !is_first_sum()) read_result(unit);
}

/// Begins to read what is added to next.
void Gradients::read_result(int unit) {
  result(unit) = file_->memory(unit);
  reading_[unit] = file_->read(unit, result(unit).view);
}

void Gradients::wait_for_result(int unit) {
  if (auto read = reading_.extract(unit)) read.mapped().wait();
}

void Gradients::added(int unit) {
  if (!is_lane_end()) return;
  decoder_.place_gradients(unit, {});
  core::Tensor& memory = sum(unit);
  if (how_.dtype != Dtype::kFloat32) memory = rounded(unit);
  // As a binary counter carries: what waits at the lowest levels is the left neighbour of what has just been summed.
  std::size_t level = 0;
  for (; (lane_ >> level) % 2 == 1; ++level) {
    core::Tensor& left = waiting_[level][static_cast<std::size_t>(unit)];
    core::add(stream_, memory.view, left.view);
    left = {};
  }
  if (!is_last_lane()) {
    waiting_[level][static_cast<std::size_t>(unit)] = std::move(memory);
    memory = {};
    return;
  }
  exchange(unit);
}

/// What a lane has summed, as it goes on.
core::Tensor Gradients::rounded(int unit) const {
  const model::Unit& summed = decoder_.units().at(unit);
  core::Tensor to = stream_.arena().tensor(how_.dtype, Shape{summed.elements},
                                           apart_ && is_last_lane() ? Category::kCommunication : Category::kGradients,
                                           summed.name + " gradient");
  core::copy(stream_, to.view, sums_[static_cast<std::size_t>(unit)].view);
  return to;
}

/// Where this rank's part of the result lies: [own range].
TensorView Gradients::own(int unit) const {
  const core::Tensor& memory = (apart_ ? results_ : sums_)[static_cast<std::size_t>(unit)];
  const comm::Range range = owners_.range(unit, rank_);
  return apart_ ? memory.view : memory.view.slice(0, range.begin, range.end);
}

void Gradients::exchange(int unit) {
  stream_.synchronize();
  if (apart_ && is_first_sum()) {
    core::Arena& home = how_.home == Home::kHost ? *how_.host : stream_.arena();
    result(unit) = home.tensor(result_dtype(), Shape{owners_.range(unit, rank_).size()}, Category::kGradients,
                               decoder_.units().at(unit).name + " gradient");
  }
  wait_for_result(unit);
  if (axis_ == nullptr) return arrived(unit, is_first_sum());
  const TensorView& whole = sum(unit).view;
  comm::Pending pending;
  if (how_.zero == 0) {
    pending = axis_->all_reduce_sum(std::span(&whole, 1), Category::kGradients);
  } else {
    const Accumulate accumulate = is_first_sum() ? Accumulate::kOverwrite : Accumulate::kAdd;
    pending = axis_->reduce_scatter_sum(std::span(&whole, 1), owners_.ranges(unit), own(unit), accumulate,
                                        Category::kGradients);
  }
  on_the_way_.push_back({unit, is_first_sum(), std::move(pending)});
  while (on_the_way_.size() > kUnitsOnTheWay) wait_for_first();
}

void Gradients::wait_for_first() {
  on_the_way_.front().pending.wait();
  const OnTheWay first = std::move(on_the_way_.front());
  on_the_way_.pop_front();
  arrived(first.unit, first.is_first_sum);
}

/// The sum over ranks is there.
void Gradients::arrived(int unit, bool is_first_sum) {
  if (!apart_) return;
  const bool has_whole = axis_ == nullptr || how_.zero == 0;
  if (has_whole && is_first_sum) {
    core::copy(stream_, result(unit).view, sum(unit).view);
  } else if (has_whole) {
    core::add(stream_, result(unit).view, sum(unit).view);
  }
  sum(unit) = {};
  if (file_ != nullptr) file_->write(unit, std::move(result(unit)));
}

void Gradients::finish() {
  while (!on_the_way_.empty()) wait_for_first();
  const model::Units& units = decoder_.units();
  const bool has_other_end = how_.pipeline != nullptr && how_.pipeline->has_other_end();
  if (units.tied_head < 0 && !has_other_end) return;
  const auto from_disk = [&](int unit) {
    if (file_ == nullptr) return;
    read_result(unit);
    wait_for_result(unit);
  };
  from_disk(units.tokens);
  if (units.tied_head >= 0) {
    from_disk(units.tied_head);
    core::add(stream_, own(units.tokens), own(units.tied_head));
  }
  if (has_other_end) how_.pipeline->add_other_end(own(units.tokens));
  if (file_ == nullptr) return;
  file_->write(units.tokens, std::move(result(units.tokens)));
  if (units.tied_head >= 0) result(units.tied_head) = {};
}

TensorView Gradients::part(const Segment& segment) {
  const std::int64_t begin = segment.offset - owners_.range(segment.unit, rank_).begin;
  const TensorView unit = window_ != nullptr ? window_->at(segment.unit) : own(segment.unit);
  return unit.slice(0, begin, begin + segment.elements());
}

}  // namespace braise::train
