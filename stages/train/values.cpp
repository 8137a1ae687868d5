// SPDX-License-Identifier: Apache-2.0
#include "stages/train/values.h"

#include <cstdint>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "stages/train/limits.h"

namespace braise::train {

using core::Category;
using core::Shape;
using core::TensorView;

Values::Values(core::Stream& stream, comm::Collectives* axis, model::Decoder& decoder, core::Dtype dtype,
               const Shards& owners, int rank, const Where& where)
    : stream_(stream), axis_(axis), decoder_(decoder), owners_(owners), rank_(rank), where_(where), dtype_(dtype) {
  const model::Units& units = decoder.units();
  held_.resize(units.all.size());
  gathered_.resize(units.all.size());
  if (where_.home == Home::kNvme) {
    std::vector<std::int64_t> elements;
    for (int unit = 0; unit < units.size(); ++unit) {
      elements.push_back(units.at(unit).values ? owners.range(unit, rank).size() : 0);
    }
    file_ = std::make_unique<UnitFile>(stream, *where_.host, where_.disk, elements, dtype, Category::kParameters);
    window_ = std::make_unique<UnitWindow>(stream, *file_, true);
    return;
  }
  core::Arena& home = where_.home == Home::kHost ? *where_.host : stream.arena();
  for (int unit = 0; unit < units.size(); ++unit) {
    if (!units.at(unit).values) continue;
    core::Tensor& held = held_[static_cast<std::size_t>(unit)];
    const std::string& name = units.at(unit).name;
    if (where_.gathers) {
      held = home.tensor(dtype, Shape{owners.range(unit, rank).size()}, Category::kParameters, name);
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

TensorView Values::own(int unit, const TensorView& whole) const {
  const comm::Range range = owners_.range(unit, rank_);
  return whole.slice(0, range.begin, range.end);
}

/// Takes a unit's memory, and has what this rank owns brought there from where it lies, unless it is.
void Values::read(int unit) {
  const core::Tensor& held = held_[static_cast<std::size_t>(unit)];
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  if (gathered.whole) return;
  if (is_alone() && where_.home == Home::kDevice) {
    gathered.whole = held.view;
    return;
  }
  const model::Unit& needed = decoder_.units().at(unit);
  const std::int64_t spare = file_ != nullptr ? gathered_spare_elements(dtype_) : 0;
  gathered.memory = stream_.arena().tensor(dtype_, Shape{needed.elements + spare}, Category::kCommunication,
                                           needed.name + " gathered");
  gathered.whole = gathered.memory.view.slice(0, 0, needed.elements);
  if (file_ != nullptr) {
    // What is read begins where O_DIRECT asks, and tensors stay aligned as in any unit.
    constexpr auto kPage = static_cast<std::uintptr_t>(offload::kAlignment);
    const std::int64_t size = core::bits(dtype_) / 8;
    const auto begin = reinterpret_cast<std::uintptr_t>(own(unit, gathered.whole).raw());
    const auto shift = static_cast<std::int64_t>((kPage - begin % kPage) % kPage);
    if (shift % (model::kUnitAlignment * size) == 0) {
      gathered.whole = gathered.memory.view.slice(0, shift / size, shift / size + needed.elements);
    }
    gathered.reading = file_->read(unit, own(unit, gathered.whole));
  } else if (is_alone()) {
    core::copy(stream_, gathered.whole, held.view);
  }
}

/// Has a unit gathered, unless it is, or is on its way.
void Values::begin(int unit) {
  read(unit);
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  if (is_alone() || gathered.gathering) return;
  gathered.reading.wait();
  const TensorView shard = file_ != nullptr ? own(unit, gathered.whole) : held_[static_cast<std::size_t>(unit)].view;
  gathered.pending =
      axis_->all_gather(shard, owners_.ranges(unit), std::span(&gathered.whole, 1), Category::kParameters);
  gathered.gathering = true;
}

void Values::need(int unit, const model::Packs& packs) {
  if (!where_.gathers) return;
  core::require(next_ < order_.size() && order_[next_] == unit, "a pass", "needs another unit than was foreseen");
  ++next_;
  begin(unit);
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  gathered.reading.wait();
  gathered.pending.wait();
  ++gathered.users;
  if (next_ < order_.size()) begin(order_[next_]);
  if (file_ != nullptr && !is_alone() && next_ + 1 < order_.size()) read(order_[next_ + 1]);
  decoder_.place_values(unit, gathered.whole);
  decoder_.pack(unit, packs);
}

void Values::used(int unit) {
  if (!where_.gathers) return;
  Gathered& gathered = gathered_[static_cast<std::size_t>(unit)];
  if (--gathered.users > 0) return;
  decoder_.place_values(unit, {});
  decoder_.drop_packs(unit);
  gathered = {};
}

void Values::accompany_pass() {
  begin_pass(false);
  const std::vector<int> order = order_;
  for (const int unit : order) {
    need(unit, {.forward = false, .backward = false});
    used(unit);
  }
}

TensorView Values::part(const Segment& segment) {
  const TensorView& held =
      window_ != nullptr ? window_->at(segment.unit) : held_[static_cast<std::size_t>(segment.unit)].view;
  return held.slice(0, offset(segment), offset(segment) + segment.elements());
}

checkpoint::Content Values::show(const Segment& segment) {
  if (file_ == nullptr) return part(segment);
  return file_->show(segment.unit).slice(offset(segment), offset(segment) + segment.elements());
}

void Values::changed() {
  if (window_ != nullptr) window_->close();
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
