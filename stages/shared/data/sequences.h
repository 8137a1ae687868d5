// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/core/arena.h"
#include "stages/shared/data/batch_source.h"
#include "stages/shared/data/draw.h"
#include "stages/shared/data/examples.h"
#include "stages/shared/data/token_file.h"

namespace braise::data {

/// Where a sequence of T positions is written.
struct Row {
  std::span<std::int32_t> ids;
  std::span<std::int32_t> targets;
  std::span<std::int32_t> positions;        ///< with masks; else empty
  std::span<std::int32_t> document_starts;  ///< the same
};

/// The sequences of one source. Sequence `index` of an epoch is a pure function of both. Const members may be called
/// from several threads.
class Sequences {
 public:
  virtual ~Sequences() = default;

  virtual SourceSummary summary() const = 0;

  /// How many there are in each epoch; 0: without end, all in epoch 0.
  virtual std::uint64_t per_epoch() const = 0;

  virtual void write(std::uint64_t epoch, std::uint64_t index, const Row& row) const = 0;

  /// Tells the system what write() will read.
  virtual void will_write(std::uint64_t /*epoch*/, std::uint64_t /*index*/) const {}
};

/// How windows are cut.
struct WindowOrder {
  Draw draw;
  bool fixed = false;  ///< at the same places always, the last window padded, so that each token but one is a target
};

/// Makers. Errors: core::Error naming the file where its side gives no sequence. `masked`: see DatasetSettings.
std::unique_ptr<Sequences> window_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                            bool masked, const WindowOrder& order);
std::unique_ptr<Sequences> random_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                            bool masked, const Draw& draw);
std::unique_ptr<Sequences> document_sequences(std::shared_ptr<const TokenFile> file, Side side, std::int64_t sequence,
                                              bool masked, const Draw& draw, core::Arena& host);
std::unique_ptr<Sequences> example_sequences(std::shared_ptr<const Examples> examples, Side side, std::int64_t sequence,
                                             bool pack, const Draw& draw, core::Arena& host);

/// Fills a row from its beginning.
class RowWriter {
 public:
  explicit RowWriter(const Row& row) : row_(row) {}

  std::size_t room() const { return row_.ids.size() - at_; }

  /// A document (or part of one): its ids, and from `first_target` on the tokens that follow each as targets. What
  /// follows the last is `next`: kIgnored where there is nothing.
  void append(std::span<const std::int32_t> ids, std::int32_t next, std::size_t first_target = 0);

  /// Makes `next` the target of what was appended last.
  void set_last_target(std::int32_t next);

  /// Fills what is left with a document whose targets are ignored.
  void pad(std::int32_t id);

 private:
  Row row_;
  std::size_t at_ = 0;
};

/// What stands where a row has no more tokens; any token will do, since nothing sees or learns it.
std::int32_t padding_id(const TokenFile& file);

}  // namespace braise::data
