// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "kernels/core/arena.h"
#include "stages/shared/data/batch_source.h"

namespace braise::data {

/// How a token file's stream is cut into sequences of T positions; see README.md for each in full.
enum class Cutting : std::uint8_t {
  kWindows,    ///< neighbouring windows, cut anew in each epoch at a random offset, in random order
  kDocuments,  ///< whole documents, packed; only longer ones than T are cut
  kRandom,     ///< windows that begin anywhere, drawn with replacement: no epochs
};

/// What stages/tokenize leaves.
struct TokenSource {
  std::filesystem::path master;  ///< tokens.h5, its shards beside it
  std::string sha256 = {};       ///< what the master's digest must be; empty: any
};

/// JSON lines for supervised finetuning: an object a line with a text under each of two keys. Loss is on completions,
/// and on the end-of-document token that is appended to each.
struct ExampleSource {
  enum class TooLong : std::uint8_t { kCut, kSkip };
  std::vector<std::filesystem::path> files;  ///< plain or compressed, as text::TextSource reads them
  std::string prompt_key = "prompt";
  std::string completion_key = "completion";
  bool pack = true;                  ///< several examples a sequence (needs document_mask); false: one
  TooLong too_long = TooLong::kCut;  ///< for T: cut the end off, or leave the example out
  double validation = 0;             ///< share of examples, drawn by seed, that is kept for validation
};

struct Source {
  std::variant<TokenSource, ExampleSource> data;
  double weight = 1;  ///< of its sequences among all, in any unit
};

struct DatasetSettings {
  std::uint64_t seed = 0;
  std::int64_t sequence = 0;  ///< T
  Cutting cutting = Cutting::kWindows;
  /// Documents in one sequence do not see each other, positions restart in each, and no target crosses from one into
  /// the next. Without it a sequence is one stream.
  bool document_mask = false;
};

struct OpenOptions {
  /// Whether to read token files through and check the SHA-256 of each shard against the master's. Once for each
  /// machine is enough: leave it to one rank, and let the others wait for it.
  bool verify = false;
  /// Called every few MiB of that with a sentence on what is being done: a sign of life. May be empty.
  std::function<void(const std::string&)> note;
};

/// The data of a run: sources, each with a side for training and one for validation. All have the same tokenizer.
class Dataset {
 public:
  /// `tokenizer`: the configuration of text::make_tokenizer for example sources; where all sources are token files it
  /// may be null, and theirs is taken. Errors: core::Error naming the file and the remedy: see TokenFile; another
  /// digest; bad lines of examples, the first 20 with file:line; sources of different tokenizers; a source with too few
  /// tokens for one sequence; weights that are not positive.
  Dataset(const DatasetSettings& settings, const std::vector<Source>& sources, const nlohmann::json& tokenizer,
          core::Arena& host, const OpenOptions& options = {});
  ~Dataset();
  Dataset(const Dataset&) = delete;
  Dataset& operator=(const Dataset&) = delete;

  const BatchSource& training() const { return *training_; }

  /// Null where no source keeps anything for validation. The sequences of all sources that do, each source's evenly
  /// spread over the whole and in a fixed order, so that the first few are a fair sample; neither weights nor (but for
  /// which examples are kept) the seed matter. kRandom is cut as kWindows is.
  const BatchSource* validation() const { return validation_.get(); }

  /// The configuration for text::make_tokenizer that all sources were made with, as JSON text.
  const std::string& tokenizer() const { return tokenizer_; }
  std::uint32_t vocabulary_size() const { return vocabulary_size_; }

 private:
  std::string tokenizer_;
  std::uint32_t vocabulary_size_ = 0;
  std::unique_ptr<BatchSource> training_;
  std::unique_ptr<BatchSource> validation_;
};

}  // namespace braise::data
