// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/data/pack_plan.h"
#include "stages/shared/data/sequences.h"

namespace braise::data {
namespace {

/// Whole documents of a token file, packed.
class PackedDocuments final : public Sequences {
 public:
  PackedDocuments(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence, bool masked,
                  const Draw& draw, core::Arena& host)
      : file_(std::move(file)),
        side_(side),
        sequence_(static_cast<std::uint64_t>(sequence)),
        masked_(masked),
        draw_(draw),
        plan_(
            sequence, [this](const auto& visit) { for_each_piece(visit); }, host) {
    if (plan_.sequences() > 0) return;
    throw core::Error(file_->path().string() + ": none of its " + std::to_string(file_->documents(side_)) +
                      " documents has two tokens, so there is nothing to learn; use other text");
  }

  SourceSummary summary() const override {
    SourceSummary summary;
    summary.name = file_->path().string();
    summary.documents = file_->documents(side_);
    summary.tokens = file_->tokens(side_);
    summary.sequences_per_epoch = per_epoch();
    summary.padding =
        1 - static_cast<double>(plan_.positions()) / static_cast<double>(per_epoch()) / static_cast<double>(sequence_);
    return summary;
  }

  std::uint64_t per_epoch() const override { return plan_.sequences(); }

  void write(std::uint64_t epoch, std::uint64_t index, const Row& row) const override {
    RowWriter writer(row);
    std::vector<std::int32_t> tokens;
    bool open = false;  // the last target is what comes next in the sequence
    for (const PackPlan::Piece& piece : plan_.sequence(draw_, epoch, index)) {
      const auto length = static_cast<std::size_t>(piece.length);
      const bool ends = !masked_ && ends_document(piece.value + length);
      tokens.resize(length + (ends ? 0 : 1));
      file_->read(side_, piece.value, tokens);
      if (open) writer.set_last_target(tokens.front());
      writer.append({tokens.data(), length}, ends ? kIgnored : tokens.back());
      open = ends;
    }
    writer.pad(padding_id(*file_));
  }

  void will_write(std::uint64_t epoch, std::uint64_t index) const override {
    for (const PackPlan::Piece& piece : plan_.sequence(draw_, epoch, index)) {
      file_->will_read(side_, piece.value, static_cast<std::uint64_t>(piece.length));
    }
  }

 private:
  bool ends_document(std::uint64_t token) const {
    const std::span<const std::uint64_t> offsets = file_->document_offsets(side_);
    return std::binary_search(offsets.begin(), offsets.end(), token);
  }

  void for_each_piece(const std::function<void(const PackPlan::Piece&)>& visit) const {
    const std::span<const std::uint64_t> offsets = file_->document_offsets(side_);
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
      // With masks the last token is only ever a target: as an id it would have none.
      const std::uint64_t end = offsets[i + 1] - (masked_ ? 1 : 0);
      for (std::uint64_t begin = offsets[i]; begin < end; begin += sequence_) {
        visit({begin, static_cast<std::int64_t>(std::min(sequence_, end - begin))});
      }
    }
  }

  const std::shared_ptr<const TokenFile> file_;
  const Side side_;
  const std::uint64_t sequence_;
  const bool masked_;
  const Draw draw_;
  const PackPlan plan_;
};

}  // namespace

std::unique_ptr<Sequences> document_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                              bool masked, const Draw& draw, core::Arena& host) {
  return std::make_unique<PackedDocuments>(std::move(file), side, sequence, masked, draw, host);
}

}  // namespace braise::data
