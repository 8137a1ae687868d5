// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <utility>

#include "kernels/core/error.h"

namespace braise::io {

std::optional<FileLock> FileLock::try_take(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!file) core::fail_errno("cannot open " + path.string());
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::nullopt;
    core::fail_errno("cannot lock " + path.string());
  }
  return FileLock(std::move(file));
}

bool FileLock::is_held(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return false;
  if (::flock(file.get(), LOCK_SH | LOCK_NB) == 0) return false;
  return errno == EWOULDBLOCK;
}

}  // namespace braise::io
