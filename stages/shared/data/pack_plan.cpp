// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/pack_plan.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <utility>

#include "stages/shared/data/permutation.h"

namespace braise::data {

PackPlan::PackPlan(std::int64_t sequence, const ForEach& for_each, core::Arena& host)
    : sequence_(sequence), class_begin_(static_cast<std::size_t>(sequence) + 1) {
  for_each([&](const Piece& piece) {
    assert(piece.length >= 1 && piece.length <= sequence_);
    ++class_begin_[static_cast<std::size_t>(piece.length)];
    positions_ += static_cast<std::uint64_t>(piece.length);
  });
  for (std::size_t length = 1; length < class_begin_.size(); ++length) class_begin_[length] += class_begin_[length - 1];
  memory_ = host.allocate(static_cast<std::int64_t>(8 * pieces()), core::Category::kWorkspace, "data");
  values_ = {static_cast<std::uint64_t*>(memory_.data()), static_cast<std::size_t>(pieces())};
  std::vector<std::uint64_t> next(class_begin_.begin(), class_begin_.end() - 1);
  for_each([&](const Piece& piece) { values_[next[static_cast<std::size_t>(piece.length - 1)]++] = piece.value; });
  pack();
}

void PackPlan::pack() {
  // Groups of sequences that are not full, by the room left in each.
  std::map<std::int64_t, std::vector<Group>> open;
  const auto keep = [&](std::int64_t room, Group&& group) {
    if (group.sequences > 0) open[room].push_back(std::move(group));
  };
  for (std::int64_t length = sequence_; length > 0; --length) {
    const std::uint64_t all =
        class_begin_[static_cast<std::size_t>(length)] - class_begin_[static_cast<std::size_t>(length - 1)];
    std::uint64_t placed = 0;
    while (placed < all) {
      // Best fit: the least room that is enough; what that leaves is the best fit for the next piece as long as it is
      // enough, so a sequence takes as many as go in before another one's turn.
      auto best = open.lower_bound(length);
      Group group;
      std::int64_t room = sequence_;
      if (best == open.end()) {
        const auto capacity = static_cast<std::uint64_t>(sequence_ / length);
        group.sequences = (all - placed + capacity - 1) / capacity;
      } else {
        room = best->first;
        group = std::move(best->second.back());
        best->second.pop_back();
        if (best->second.empty()) open.erase(best);
      }
      const auto capacity = static_cast<std::uint64_t>(room / length);
      const std::uint64_t full = std::min(group.sequences, (all - placed) / capacity);
      Group filled = split(group, full);
      if (full > 0) filled.places.push_back({length, capacity, placed});
      placed += full * capacity;
      keep(room - static_cast<std::int64_t>(capacity) * length, std::move(filled));
      if (group.sequences > 0 && placed < all) {
        Group last = split(group, 1);
        last.places.push_back({length, all - placed, placed});
        const auto used = static_cast<std::int64_t>(all - placed) * length;
        placed = all;
        keep(room - used, std::move(last));
      }
      keep(room, std::move(group));
    }
  }
  for (auto& [room, groups] : open) {
    for (Group& group : groups) {
      sequences_ += group.sequences;
      group_end_.push_back(sequences_);
      groups_.push_back(std::move(group));
    }
  }
}

/// Takes the first so many sequences out of a group.
PackPlan::Group PackPlan::split(Group& group, std::uint64_t sequences) {
  Group front{sequences, group.places};
  group.sequences -= sequences;
  for (Places& places : group.places) places.first += sequences * places.count;
  return front;
}

std::vector<PackPlan::Piece> PackPlan::sequence(const Draw& draw, std::uint64_t epoch, std::uint64_t index) const {
  const std::uint64_t chosen = Permutation(draw.stream(epoch, Use::kSequenceOrder), sequences_)(index);
  const auto found =
      static_cast<std::size_t>(std::upper_bound(group_end_.begin(), group_end_.end(), chosen) - group_end_.begin());
  const Group& group = groups_[found];
  const std::uint64_t row = chosen - (group_end_[found] - group.sequences);
  std::vector<Piece> pieces;
  for (const Places& places : group.places) {
    const std::uint64_t begin = class_begin_[static_cast<std::size_t>(places.length - 1)];
    const std::uint64_t end = class_begin_[static_cast<std::size_t>(places.length)];
    const Permutation choice(draw.stream(epoch, Use::kPieceChoice, static_cast<std::uint64_t>(places.length)),
                             end - begin);
    for (std::uint64_t i = 0; i < places.count; ++i) {
      pieces.push_back({values_[begin + choice(places.first + row * places.count + i)], places.length});
    }
  }
  // Fisher and Yates.
  const core::RandomStream order = draw.stream(epoch, Use::kPieceOrder, chosen);
  for (std::size_t i = pieces.size(); i > 1; --i) std::swap(pieces[i - 1], pieces[below(bits_at(order, i), i)]);
  return pieces;
}

}  // namespace braise::data
