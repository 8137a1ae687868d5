// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kernels/core/error.h"

namespace braise::io {
namespace fs = std::filesystem;

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}

int FileDescriptor::release() {
  return std::exchange(fd_, -1);
}

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::string read_file(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) core::fail_errno("cannot open " + path.string());
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) core::fail_errno("cannot look at " + path.string());
  // One byte more than it has now, to see its end; a file that grows, or has no size (a pipe, /proc), takes more turns.
  std::string text;
  std::size_t used = 0;
  for (std::size_t room = static_cast<std::size_t>(status.st_size) + 1;; room = std::max<std::size_t>(used, 1u << 12)) {
    text.resize(used + room);
    const ssize_t got = ::read(file.get(), text.data() + used, text.size() - used);
    if (got < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot read " + path.string());
    }
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
  }
  text.resize(used);
  return text;
}

void write_all(int fd, std::string_view text, const fs::path& name) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd, text.data(), text.size());
    if (put < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot write " + name.string());
    }
    text.remove_prefix(static_cast<std::size_t>(put));
  }
}

void read_at(int fd, std::span<std::byte> to, std::uint64_t offset, const fs::path& name) {
  while (!to.empty()) {
    const ssize_t got = ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot read " + name.string());
    }
    if (got == 0) throw core::Error(name.string() + " ends at byte " + std::to_string(offset) + ", too early");
    to = to.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

void write_at(int fd, std::span<const std::byte> from, std::uint64_t offset, const fs::path& name) {
  while (!from.empty()) {
    const ssize_t put = ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      core::fail_errno("cannot write " + name.string());
    }
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
}

void sync_directory(const fs::path& path) {
  const FileDescriptor folder(::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) core::fail_errno("cannot open folder " + path.string());
  // Some network file systems refuse fsync on a folder (EINVAL); they keep names in order by themselves.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) core::fail_errno("cannot sync folder " + path.string());
}

void publish_file(const fs::path& temporary, const fs::path& path) {
  {
    const FileDescriptor file(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) core::fail_errno("cannot open " + temporary.string());
    if (::fsync(file.get()) != 0) core::fail_errno("cannot sync " + temporary.string());
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    core::fail_errno("cannot rename " + temporary.string() + " to " + path.filename().string());
  }
  sync_directory(path.parent_path());
}

void write_file_durably(const fs::path& path, std::string_view text) {
  const fs::path temporary =
      path.parent_path() / ("." + path.filename().string() + ".tmp." + std::to_string(::getpid()));
  try {
    const FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!file) core::fail_errno("cannot create " + temporary.string());
    write_all(file.get(), text, path);
    publish_file(temporary, path);
  } catch (const core::Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void create_directories_durably(const fs::path& path) {
  if (path.empty() || fs::is_directory(path)) return;
  create_directories_durably(path.parent_path());
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) core::fail_errno("cannot create folder " + path.string());
  if (!fs::is_directory(path)) throw core::Error(path.string() + " is not a folder");
  sync_directory(path.parent_path());
}

}  // namespace braise::io
