// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "kernels/core/error.h"

namespace braise::weights {
namespace {

struct stat status_of(const io::FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) core::fail_errno("cannot stat " + path.string());
  return status;
}

std::int64_t changed_ns(const struct stat& status) {
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  // O_NONBLOCK: a FIFO must be refused below, not waited for.
  file_ = io::FileDescriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file_) core::fail_errno("cannot open " + path_.string());
  const struct stat status = status_of(file_, path_);
  if (S_ISDIR(status.st_mode)) throw core::Error(path_.string() + " is a folder, not a file");
  if (!S_ISREG(status.st_mode)) throw core::Error(path_.string() + " is not a regular file");
  changed_ns_ = changed_ns(status);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (address == MAP_FAILED) core::fail_errno("cannot map " + path_.string());
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::move(other.file_)),
      bytes_(std::exchange(other.bytes_, {})),
      changed_ns_(other.changed_ns_) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::require_unchanged() const {
  const struct stat status = status_of(file_, path_);
  if (static_cast<std::size_t>(status.st_size) != bytes_.size()) {
    throw core::Error(path_.string() + ": had " + std::to_string(bytes_.size()) +
                      " bytes when it was opened, and now " + std::to_string(status.st_size) +
                      "; it must not change while it is read");
  }
  if (changed_ns(status) != changed_ns_) {
    throw core::Error(path_.string() + ": was written to since it was opened; it must not change while it is read");
  }
}

void MappedFile::bring_in(std::span<const std::byte> bytes) const {
  if (bytes.empty()) return;
  static const auto kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(bytes.data() - bytes_.data());
  const std::size_t begin = offset / kPage * kPage;
  void* const address = const_cast<std::byte*>(bytes_.data() + begin);
  if (::madvise(address, offset + bytes.size() - begin, MADV_POPULATE_READ) == 0 || errno == EINVAL) return;
  core::fail_errno("cannot read " + path_.string() + " at byte " + std::to_string(offset));
}

}  // namespace braise::weights
