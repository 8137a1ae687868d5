// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace braise::io {

/// A file descriptor that is closed with its owner. Opened files never survive an exec.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

/// The whole of a file. Errors: core::Error naming the path.
std::string read_file(const std::filesystem::path& path);

/// Puts `text` at `path` so that a crash at any instant leaves the old file or the new one, whole: a temporary name in
/// the same folder, fsync, rename, fsync of the folder. Errors: core::Error naming the path; the old file is untouched.
void write_file_durably(const std::filesystem::path& path, std::string_view text);

/// Gives the finished file `temporary` its name `path` durably: fsync, rename over `path`, fsync of the folder.
void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// Creates `path` and what is missing above it, and fsyncs the folders that gained an entry.
void create_directories_durably(const std::filesystem::path& path);

/// fsync of a folder, which makes names created in it survive a crash.
void sync_directory(const std::filesystem::path& path);

/// Fills `to` from the file's bytes at `offset`, or writes `from` there; repeats short calls.
/// Errors: core::Error naming `name`, also where the file ends before.
void read_at(int fd, std::span<std::byte> to, std::uint64_t offset, const std::filesystem::path& name);
void write_at(int fd, std::span<const std::byte> from, std::uint64_t offset, const std::filesystem::path& name);

/// Writes all of `text` at the end of what `fd` has; repeats short writes. Errors: core::Error naming `name`.
void write_all(int fd, std::string_view text, const std::filesystem::path& name);

}  // namespace braise::io
