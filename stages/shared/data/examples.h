// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "stages/shared/data/dataset.h"
#include "stages/shared/data/draw.h"
#include "stages/shared/data/token_file.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::data {

/// The examples of JSON-lines files, as tokens in memory: 4 bytes a token and 16 an example (host arena, workspace).
class Examples {
 public:
  /// One example: its ids, the token that follows the last, and the first position whose target counts (that of the
  /// completion's first token).
  struct Example {
    std::span<const std::int32_t> ids;
    std::int32_t next = 0;
    std::size_t first_target = 0;
  };

  /// Reads all files through. A prompt and its completion are tokenized each for itself; the end-of-document token
  /// follows. Of an example of more than `sequence` positions the rest is cut off or, as `source` asks, it is left out;
  /// so is one of which no target would be left. Errors: core::Error with up to 20 bad lines, each as "file:line: ...";
  /// for a tokenizer without an end of document; where a side that is asked for is empty.
  Examples(const ExampleSource& source, const text::Tokenizer& tokenizer, std::int64_t sequence, const Draw& draw,
           core::Arena& host, const std::function<void(const std::string&)>& note);

  const std::string& name() const { return name_; }
  std::int32_t end_of_document() const { return end_of_document_; }
  const std::vector<std::string>& file_digests() const { return file_digests_; }  ///< SHA-256, in the order of files

  std::uint64_t size(Side side) const { return of(side).starts.size(); }
  Example example(Side side, std::uint64_t index) const;
  std::uint64_t tokens(Side side) const { return of(side).tokens.size(); }

  std::uint64_t cut(Side side) const { return of(side).cut; }
  std::uint64_t skipped(Side side) const { return of(side).skipped; }

 private:
  /// Of an example: its first token, and how many of its tokens are prompt.
  struct Start {
    std::uint64_t token = 0;
    std::uint64_t prompt_tokens = 0;
  };
  struct Kept {
    core::Buffer memory;
    std::span<const std::int32_t> tokens;
    std::span<const Start> starts;
    std::uint64_t cut = 0;
    std::uint64_t skipped = 0;
  };
  struct Gathered;
  const Kept& of(Side side) const { return side == Side::kTrain ? train_ : validation_; }
  static void keep(Kept& kept, Gathered&& gathered, core::Arena& host);

  std::string name_;
  std::int32_t end_of_document_ = 0;
  std::vector<std::string> file_digests_;
  Kept train_;
  Kept validation_;
};

}  // namespace braise::data
