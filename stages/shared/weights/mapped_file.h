// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "stages/shared/io/file.h"

namespace braise::weights {

/// A regular file mapped into memory for reading. Move-only; its bytes stay where they are. Errors: core::Error naming
/// the file.
///
/// A file must not be cut short while it is mapped: touching what is gone ends the process (SIGBUS). A file that was
/// renamed over or deleted stays as it was.
class MappedFile {
 public:
  /// Refuses what is not a regular file. An empty file has no bytes.
  explicit MappedFile(std::filesystem::path path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) = delete;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  /// Errors: core::Error where the file's length or its time of change is another than when it was opened.
  void require_unchanged() const;

  /// Brings the bytes into memory, so that what the disk cannot read, or what was cut off, is an error and no signal
  /// (before Linux 5.14: does nothing).
  void bring_in(std::span<const std::byte> bytes) const;

 private:
  std::filesystem::path path_;
  io::FileDescriptor file_;
  std::span<const std::byte> bytes_;
  std::int64_t changed_ns_ = 0;
};

}  // namespace braise::weights
