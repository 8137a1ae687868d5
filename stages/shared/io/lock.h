// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "stages/shared/io/file.h"

namespace braise::io {

/// An exclusive lock on a file (flock), held until destroyed or until the process dies, however it dies.
class FileLock {
 public:
  /// Takes the lock, creating the file where missing; nothing where another process holds it.
  /// Errors: core::Error where the file cannot be opened.
  static std::optional<FileLock> try_take(const std::filesystem::path& path);

  /// Whether some process holds the lock now. A missing file is not held.
  static bool is_held(const std::filesystem::path& path);

 private:
  explicit FileLock(FileDescriptor file) : file_(std::move(file)) {}
  FileDescriptor file_;
};

}  // namespace braise::io
