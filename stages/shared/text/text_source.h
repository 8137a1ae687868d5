// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace braise::text {

/// What tells that a file has not been touched since it was looked at.
struct FileIdentity {
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;

  bool operator==(const FileIdentity&) const = default;
};

/// How to read a file.
struct SourceOptions {
  bool digest = false;  ///< compute the SHA-256 of the file's own (compressed) bytes on the way
  /// Called after each piece with the number of the file's own bytes read so far: a sign of life. May be empty.
  std::function<void(std::uint64_t)> on_progress;
};

/// The text of a file, piece by piece; decompressed where the name ends in .gz or .dz (gzip, several members allowed)
/// or .zst (several frames allowed). Errors: core::Error naming the file, and the offset for one that is truncated,
/// corrupt or followed by other bytes.
class TextSource {
 public:
  virtual ~TextSource() = default;

  /// The next piece, valid until the next call; empty at the end.
  virtual std::string_view next() = 0;

  /// Whether seek() works: it does for files that are not compressed.
  virtual bool can_seek() const = 0;
  /// Continues at `offset`. Only before the first next(), and not with a digest.
  virtual void seek(std::uint64_t offset) = 0;

  /// Lower-case hexadecimal; once, after the end, where SourceOptions asked for it.
  virtual std::string sha256() = 0;

  /// As the file is now (the open one, even where its name has been given to another).
  virtual FileIdentity identity() const = 0;
};

/// Opens a regular file.
std::unique_ptr<TextSource> open_text(const std::filesystem::path& path, SourceOptions options);

/// The name without a compression suffix: "a.jsonl.zst" becomes "a.jsonl".
std::string uncompressed_name(const std::string& name);

}  // namespace braise::text
