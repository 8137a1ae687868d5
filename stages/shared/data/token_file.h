// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace braise::data {

enum class Side : std::uint8_t { kTrain, kValidation };

/// The token files of stages/tokenize, opened by their master: the shards' tokens as one stream for each side. Layout:
/// schemas/tokens.schema.json. Shards are mapped, not read; the master's virtual datasets are not used, since HDF5
/// shows zeros for a missing part. Const members may be called from several threads.
class TokenFile {
 public:
  /// `sha256`: what the master's digest must be; empty: any. Checks layout and version, that all shards are there with
  /// the length, vocabulary and number of tokens that the master records, and that the documents' offsets make sense.
  /// With `verify` each shard is read through, and its SHA-256 compared with the master's; `note` (may be empty) is
  /// then called with a sentence every few MiB. Errors: core::Error naming the file, what is wrong and what to do.
  explicit TokenFile(const std::filesystem::path& master, const std::string& sha256 = {}, bool verify = false,
                     const std::function<void(const std::string&)>& note = {});
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  const std::filesystem::path& path() const;
  std::uint32_t vocabulary_size() const;
  std::optional<std::uint32_t> end_of_document() const;
  const std::string& tokenizer() const;  ///< its configuration, JSON text
  const std::string& sha256() const;     ///< of the master, which holds those of all shards

  std::uint64_t tokens(Side side) const;
  std::uint64_t documents(Side side) const;

  /// N + 1 offsets in the stream, from 0 to tokens(): document i is tokens [offsets[i], offsets[i + 1]). Mapped from
  /// the master: must a file system take it away meanwhile, touching it ends the process (SIGBUS).
  std::span<const std::uint64_t> document_offsets(Side side) const;

  /// Copies tokens [begin, begin + out.size()) of the stream. A shard that was cut, written to, or that the disk cannot
  /// read is an error; only one cut in the microseconds between the check and the copy ends the process (SIGBUS).
  /// Errors: core::Error naming the shard, also for a token that is not in the vocabulary.
  void read(Side side, std::uint64_t begin, std::span<std::int32_t> out) const;

  /// Tells the system that these tokens will be read soon.
  void will_read(Side side, std::uint64_t begin, std::uint64_t count) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace braise::data
