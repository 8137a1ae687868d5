// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/data/permutation.h"
#include "stages/shared/data/sequences.h"

namespace braise::data {
namespace {

/// Windows of a token file's stream.
class Windows : public Sequences {
 public:
  Windows(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence, bool masked)
      : file_(std::move(file)),
        side_(side),
        sequence_(static_cast<std::uint64_t>(sequence)),
        masked_(masked),
        tokens_(file_->tokens(side)) {}

  SourceSummary summary() const override {
    SourceSummary summary;
    summary.name = file_->path().string();
    summary.documents = file_->documents(side_);
    summary.tokens = tokens_;
    summary.sequences_per_epoch = per_epoch();
    return summary;
  }

  void write(std::uint64_t epoch, std::uint64_t index, const Row& row) const override {
    const std::uint64_t begin = this->begin(epoch, index);
    // One more than there are positions, for the last target; the last window of a validation side may have fewer.
    std::vector<std::int32_t> tokens(std::min(sequence_ + 1, tokens_ - begin));
    file_->read(side_, begin, tokens);
    RowWriter writer(row);
    if (masked_) {
      append_documents(begin, tokens, writer);
    } else {
      writer.append({tokens.data(), tokens.size() - 1}, tokens.back());
    }
    writer.pad(padding_id(*file_));
  }

  void will_write(std::uint64_t epoch, std::uint64_t index) const override {
    const std::uint64_t begin = this->begin(epoch, index);
    file_->will_read(side_, begin, std::min(sequence_ + 1, tokens_ - begin));
  }

 protected:
  /// Where a window begins: before the last token.
  virtual std::uint64_t begin(std::uint64_t epoch, std::uint64_t index) const = 0;

  void require_a_window() const {
    if (tokens_ > sequence_) return;
    throw core::Error(file_->path().string() + ": its " + std::to_string(tokens_) +
                      " tokens for training make no sequence of " + std::to_string(sequence_) +
                      " and the token after it; use a shorter `sequence` or more text");
  }

  const std::shared_ptr<const TokenFile> file_;
  const Side side_;
  const std::uint64_t sequence_;
  const bool masked_;
  const std::uint64_t tokens_;

 private:
  void append_documents(std::uint64_t begin, const std::vector<std::int32_t>& tokens, RowWriter& writer) const {
    const std::span<const std::uint64_t> offsets = file_->document_offsets(side_);
    const std::uint64_t end = begin + tokens.size() - 1;
    auto next_document = std::upper_bound(offsets.begin(), offsets.end(), begin);
    for (std::uint64_t at = begin; at < end; ++next_document) {
      const std::uint64_t piece_end = std::min(*next_document, end);
      // The token after the window may be of the same document, or the first of another.
      const bool goes_on = piece_end < *next_document;
      writer.append({tokens.data() + (at - begin), piece_end - at}, goes_on ? tokens.back() : kIgnored);
      at = piece_end;
    }
  }
};

class ShuffledWindows final : public Windows {
 public:
  ShuffledWindows(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence, bool masked,
                  const WindowOrder& order)
      : Windows(std::move(file), side, sequence, masked), order_(order) {
    if (order_.fixed) {
      windows_ = tokens_ < 2 ? 0 : (tokens_ - 2) / sequence_ + 1;
      return;
    }
    require_a_window();
    windows_ = std::max<std::uint64_t>(tokens_ / sequence_, 2) - 1;
    offsets_ = std::min(sequence_, tokens_ - windows_ * sequence_);
  }

  std::uint64_t per_epoch() const override { return windows_; }

 private:
  std::uint64_t begin(std::uint64_t epoch, std::uint64_t index) const override {
    const std::uint64_t offset =
        order_.fixed ? 0 : below(bits_at(order_.draw.stream(epoch, Use::kWindowOffset), 0), offsets_);
    return offset + sequence_ * Permutation(order_.draw.stream(epoch, Use::kWindowOrder), windows_)(index);
  }

  WindowOrder order_;
  std::uint64_t windows_ = 0;  ///< the same for every offset
  std::uint64_t offsets_ = 1;  ///< how many there are
};

class RandomWindows final : public Windows {
 public:
  RandomWindows(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence, bool masked, const Draw& draw)
      : Windows(std::move(file), side, sequence, masked), starts_(draw.stream(0, Use::kWindowStart)) {
    require_a_window();
  }

  std::uint64_t per_epoch() const override { return 0; }

 private:
  std::uint64_t begin(std::uint64_t, std::uint64_t index) const override {
    return below(bits_at(starts_, index), tokens_ - sequence_);
  }

  core::RandomStream starts_;
};

}  // namespace

std::unique_ptr<Sequences> window_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                            bool masked, const WindowOrder& order) {
  return std::make_unique<ShuffledWindows>(std::move(file), side, sequence, masked, order);
}

std::unique_ptr<Sequences> random_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                            bool masked, const Draw& draw) {
  return std::make_unique<RandomWindows>(std::move(file), side, sequence, masked, draw);
}

}  // namespace braise::data
