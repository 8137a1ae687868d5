// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/tensor.h"

namespace braise::data {

/// The target of a position that takes no part in the loss.
constexpr std::int32_t kIgnored = -100;

/// Sequences in memory, as model::Batch takes them: B sequences of T positions, int32 [B, T] each, contiguous.
struct HostBatch {
  core::Buffer memory;
  core::ConstTensorView ids;
  core::ConstTensorView targets;  ///< kIgnored where there is nothing to learn
  /// Both only of sources with document masks: the place in its document, from 0 (in the part of it that lies in this
  /// sequence), and where in the sequence that document begins, as attention::Mask has it. Padding at the end is a
  /// document of its own.
  core::ConstTensorView positions;
  core::ConstTensorView document_starts;

  std::uint64_t first_sequence = 0;         ///< sequence b is first_sequence + b
  std::vector<std::int64_t> target_counts;  ///< of each sequence: targets that are not ignored
  std::int64_t target_count = 0;            ///< of all
};

/// An exact place in a training run's data: what a checkpoint keeps.
struct Position {
  std::uint64_t next_sequence = 0;
  std::string identity;  ///< BatchSource::identity() of the data it counts in
};

/// What a source is, for logs and reports.
struct SourceSummary {
  std::string name;             ///< path of its (first) file
  std::uint64_t documents = 0;  ///< or examples
  std::uint64_t tokens = 0;
  std::uint64_t sequences_per_epoch = 0;  ///< 0: drawn with replacement
  double padding = 0;                     ///< share of positions, in an epoch
  std::uint64_t examples_cut = 0;         ///< too long ones; of files of examples only
  std::uint64_t examples_skipped = 0;
};

class Mixture;
class Sequences;

/// Numbered sequences: sequence n is a pure function of the files, the settings and n, never of ranks, of what was
/// fetched before, or of threads. Made by Dataset. Const members may be called from several threads.
class BatchSource {
 public:
  BatchSource(std::vector<std::unique_ptr<Sequences>> sources, Mixture mixture, std::string identity, bool masked,
              bool endless, std::int64_t sequence, core::Arena& host);
  ~BatchSource();
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;

  std::int64_t sequence() const { return sequence_; }  ///< T
  bool masked() const { return masked_; }              ///< whether batches have positions and document_starts

  /// Sequences [first_sequence, first_sequence + count), count at least 1. Memory comes from the host arena, category
  /// workspace, owner "data": 8 or (masked) 16 bytes a position. Errors: core::Error beyond the end of a validation
  /// side; where the budget is exceeded; naming the file where one was changed, cut or cannot be read (see
  /// TokenFile::read).
  HostBatch fetch(std::uint64_t first_sequence, std::int64_t count) const;

  /// How many sequences there are: of a validation side all, in a fixed order; training never ends (2^62).
  std::uint64_t sequences() const;

  /// The number of sequences after which each source has been gone through at least `epochs` times (of one source:
  /// exactly). Errors: core::Error where a source is drawn with replacement, so has no epochs, or the side ends.
  std::uint64_t sequences_for_epochs(double epochs) const;

  /// Where sequence n is from.
  struct Origin {
    std::size_t source = 0;   ///< as summaries() lists them
    std::uint64_t epoch = 0;  ///< how often that source has been gone through before
    std::uint64_t index = 0;  ///< of the sequence in that epoch
  };
  Origin origin(std::uint64_t sequence) const;

  std::vector<SourceSummary> summaries() const;

  /// JSON text of everything that decides what sequence n is (seed, settings, weights, digests of the files), no paths.
  const std::string& identity() const { return identity_; }
  /// Its SHA-256.
  std::string digest() const;

  Position position(std::uint64_t next_sequence) const { return {next_sequence, identity_}; }
  /// Errors: core::Error that says what differs, where a position counts in other data than this.
  void require_same(const Position& position) const;

 private:
  std::vector<std::unique_ptr<Sequences>> sources_;
  std::unique_ptr<const Mixture> mixture_;
  std::string identity_;
  bool masked_;
  bool endless_;
  std::int64_t sequence_;
  core::Arena* host_;
};

}  // namespace braise::data
