// SPDX-License-Identifier: Apache-2.0
#include <optional>
#include <utility>

#include "stages/shared/data/pack_plan.h"
#include "stages/shared/data/permutation.h"
#include "stages/shared/data/sequences.h"

namespace braise::data {
namespace {

/// Examples, one or (packed) several in a sequence.
class ExampleSequences final : public Sequences {
 public:
  ExampleSequences(std::shared_ptr<const Examples> examples, Side side, std::int64_t sequence, bool pack,
                   const Draw& draw, core::Arena& host)
      : examples_(std::move(examples)), side_(side), sequence_(static_cast<std::uint64_t>(sequence)), draw_(draw) {
    for (std::uint64_t i = 0; i < examples_->size(side_); ++i) positions_ += example(i).ids.size();
    if (!pack) return;
    const auto for_each = [this](const auto& visit) {
      for (std::uint64_t i = 0; i < examples_->size(side_); ++i)
        visit({i, static_cast<std::int64_t>(example(i).ids.size())});
    };
    plan_.emplace(sequence, for_each, host);
  }

  SourceSummary summary() const override {
    SourceSummary summary;
    summary.name = examples_->name();
    summary.documents = examples_->size(side_);
    summary.tokens = examples_->tokens(side_);
    summary.sequences_per_epoch = per_epoch();
    summary.padding =
        1 - static_cast<double>(positions_) / static_cast<double>(per_epoch()) / static_cast<double>(sequence_);
    summary.examples_cut = examples_->cut(side_);
    summary.examples_skipped = examples_->skipped(side_);
    return summary;
  }

  std::uint64_t per_epoch() const override { return plan_ ? plan_->sequences() : examples_->size(side_); }

  void write(std::uint64_t epoch, std::uint64_t index, const Row& row) const override {
    RowWriter writer(row);
    const auto append = [&](std::uint64_t i) {
      const Examples::Example chosen = example(i);
      writer.append(chosen.ids, chosen.next, chosen.first_target);
    };
    if (plan_) {
      for (const PackPlan::Piece& piece : plan_->sequence(draw_, epoch, index)) append(piece.value);
    } else {
      append(Permutation(draw_.stream(epoch, Use::kSequenceOrder), per_epoch())(index));
    }
    writer.pad(examples_->end_of_document());
  }

 private:
  Examples::Example example(std::uint64_t i) const { return examples_->example(side_, i); }

  const std::shared_ptr<const Examples> examples_;
  const Side side_;
  const std::uint64_t sequence_;
  const Draw draw_;
  std::uint64_t positions_ = 0;
  std::optional<PackPlan> plan_;
};

}  // namespace

std::unique_ptr<Sequences> example_sequences(std::shared_ptr<const Examples> examples, Side side, std::int64_t sequence,
                                             bool pack, const Draw& draw, core::Arena& host) {
  return std::make_unique<ExampleSequences>(std::move(examples), side, sequence, pack, draw, host);
}

}  // namespace braise::data
