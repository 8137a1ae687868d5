// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/core/arena.h"
#include "stages/shared/data/draw.h"

namespace braise::data {

/// How pieces of known lengths are packed into sequences of T positions, such that every epoch has each piece exactly
/// once and the same number of sequences, and any sequence of any epoch is found without those before it.
///
/// Only lengths are packed: best fit, longest first, on how many pieces there are of each length, once. A sequence is
/// then a list of lengths; in each epoch the pieces of one length are dealt anew to the places of that length, the
/// sequences come in another order, and the pieces in each as well. Memory: 8 bytes a piece (host arena, workspace),
/// and 8 bytes for each possible length; the packing itself is a list of the different combinations of lengths, a few
/// for each length. Source: Krell et al., "Efficient sequence packing without cross-contamination", 2021 (arXiv
/// 2107.02027), section 3.
class PackPlan {
 public:
  struct Piece {
    std::uint64_t value = 0;  ///< as given
    std::int64_t length = 0;
  };
  /// Calls its argument for each piece, in an order that is the same each time. Lengths are from 1 to T.
  using ForEach = std::function<void(const std::function<void(const Piece&)>&)>;

  PackPlan(std::int64_t sequence, const ForEach& for_each, core::Arena& host);

  std::uint64_t sequences() const { return sequences_; }
  std::uint64_t pieces() const { return class_begin_.back(); }
  std::uint64_t positions() const { return positions_; }  ///< that pieces fill, of sequences() * T

  /// The pieces of a sequence of an epoch, in order.
  std::vector<Piece> sequence(const Draw& draw, std::uint64_t epoch, std::uint64_t index) const;

 private:
  /// Places of one length in each sequence of a group: sequence r of it has those numbered first + r * count to
  /// first + (r + 1) * count among all places of that length.
  struct Places {
    std::int64_t length = 0;
    std::uint64_t count = 0;
    std::uint64_t first = 0;
  };
  /// Sequences of the same lengths.
  struct Group {
    std::uint64_t sequences = 0;
    std::vector<Places> places;
  };
  void pack();
  static Group split(Group& group, std::uint64_t sequences);

  std::int64_t sequence_;
  core::Buffer memory_;
  std::span<std::uint64_t> values_;         ///< of the pieces, by length
  std::vector<std::uint64_t> class_begin_;  ///< pieces of length l: values_[class_begin_[l - 1], class_begin_[l])
  std::vector<Group> groups_;
  std::vector<std::uint64_t> group_end_;  ///< sequences up to and with each group
  std::uint64_t sequences_ = 0;
  std::uint64_t positions_ = 0;
};

}  // namespace braise::data
