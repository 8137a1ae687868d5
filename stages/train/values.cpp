// SPDX-License-Identifier: Apache-2.0
#include "stages/train/values.h"

#include "kernels/core/copy.h"
#include "kernels/core/error.h"

namespace braise::train {

using core::Category;
using core::Shape;
using core::TensorView;

Values::Values(core::Stream& stream, comm::Collectives* axis, model::Decoder& decoder, core::Dtype dtype,
               const Shards& owners, int rank, const Where& where)
    : stream_(stream), axis_(axis), decoder_(decoder), owners_(owners), rank_(rank), where_(where) {
  const model::Units& units = decoder.units();
  held_.resize(units.all.size());
  gathered_.resize(units.all.size());
  for (int unit = 0; unit < units.size(); ++unit) {
    if (!units.at(unit).values) continue;
    core::Tensor& held = held_[static_cast<std::size_t>(unit)];
    const std::string& name = units.at(unit).name;
    if (where_.gathers) {
      held = where_.home->tensor(dtype, Shape{owners.range(unit, rank).size()}, Category::kParameters, name);
    } else {
      held = stream.arena().tensor(dtype, Shape{units.at(unit).elements}, Category::kParameters, name);
      decoder.place_values(unit, held.view);
    }
  }
}

void Values::begin_pass(bool backward) {
  if (!where_.gathers) return;
  const model::Units& units = decoder_.units();
  order_ = {units.tokens};
  if (units.positions >= 0) order_.push_back(units.positions);
  for (int unit = units.first_block; unit < units.end; ++unit) order_.push_back(unit);
  if (units.tied_head >= 0) order_.push_back(units.tokens);
  order_.push_back(units.end);
  for (int unit = units.end - 1; backward && unit >= units.first_block; --unit) order_.push_back(unit);
  next_ = 0;
}

/// Has a unit gathered, unless it is, or is on its way.
void Values::begin(int unit) {
  const core::Tensor& held = held_[static_cast<std::size_t>(unit)];
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  if (gathered.memory.view) return;
  const bool alone = axis_ == nullptr;
  if (alone && where_.home == &stream_.arena()) {
    gathered.memory.view = held.view;
    return;
  }
  const model::Unit& needed = decoder_.units().at(unit);
  gathered.memory = stream_.arena().tensor(held.view.dtype(), Shape{needed.elements}, Category::kCommunication,
                                           needed.name + " gathered");
  if (alone) {
    core::copy(stream_, gathered.memory.view, held.view);
  } else {
    gathered.pending =
        axis_->all_gather(held.view, owners_.ranges(unit), std::span(&gathered.memory.view, 1), Category::kParameters);
  }
}

void Values::need(int unit, const model::Packs& packs) {
  if (!where_.gathers) return;
  core::require(next_ < order_.size() && order_[next_] == unit, "a pass", "needs another unit than was foreseen");
  ++next_;
  begin(unit);
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  gathered.pending.wait();
  if (next_ < order_.size()) begin(order_[next_]);
  ++gathered.users;
  decoder_.place_values(unit, gathered.memory.view);
  decoder_.pack(unit, packs);
}

void Values::used(int unit) {
  if (!where_.gathers) return;
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  if (--gathered.users > 0) return;
  decoder_.place_values(unit, {});
  decoder_.drop_packs(unit);
  gathered.memory = {};
}

void Values::accompany_pass() {
  begin_pass(false);
  const std::vector<int> order = order_;
  for (const int unit : order) {
    need(unit, {.forward = false, .backward = false});
    used(unit);
  }
}

TensorView Values::part(const Segment& segment) const {
  const std::int64_t base = where_.gathers ? owners_.range(segment.unit, rank_).begin : 0;
  const std::int64_t begin = segment.offset - base;
  return held_[static_cast<std::size_t>(segment.unit)].view.slice(0, begin, begin + segment.elements());
}

void Values::changed() {
  if (where_.gathers) return;
  if (owners_.ranks() > 1) {
    stream_.synchronize();
    std::vector<comm::Pending> pending;
    for (int unit = 0; unit < decoder_.units().size(); ++unit) {
      const TensorView& whole = held_[static_cast<std::size_t>(unit)].view;
      if (!whole) continue;
      const comm::Range own = owners_.range(unit, rank_);
      pending.push_back(axis_->all_gather(whole.slice(0, own.begin, own.end), owners_.ranges(unit),
                                          std::span(&whole, 1), Category::kParameters));
    }
    for (comm::Pending& one : pending) one.wait();
  }
  decoder_.values_changed();
}

}  // namespace braise::train
