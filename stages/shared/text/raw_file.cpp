// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/raw_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>

#include "kernels/core/error.h"

namespace braise::text {
namespace {

// Large enough that the cost of a call vanishes, small enough to stay in the cache between reading and hashing.
constexpr std::size_t kBufferBytes = 256 * 1024;

struct stat status_of(const io::FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) core::fail_errno("cannot stat " + path.string());
  return status;
}

}  // namespace

RawFile::RawFile(std::filesystem::path path, SourceOptions options)
    : path_(std::move(path)), options_(std::move(options)), buffer_(kBufferBytes) {
  // O_NONBLOCK: a FIFO must be refused below, not waited for.
  file_ = io::FileDescriptor(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file_) core::fail_errno("cannot open " + path_.string());
  if (!S_ISREG(status_of(file_, path_).st_mode)) throw core::Error(path_.string() + " is not a regular file");
  if (options_.digest) digest_.emplace();
}

std::string_view RawFile::read() {
  ssize_t got = 0;
  do {
    got = ::read(file_.get(), buffer_.data(), buffer_.size());
  } while (got < 0 && errno == EINTR);
  if (got < 0) core::fail_errno("cannot read " + path_.string() + " at byte " + std::to_string(offset_));
  const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
  offset_ += bytes.size();
  if (digest_) digest_->update(bytes);
  if (options_.on_progress) options_.on_progress(offset_);
  return bytes;
}

void RawFile::seek(std::uint64_t offset) {
  assert(!digest_ && offset_ == 0);
  if (::lseek(file_.get(), static_cast<off_t>(offset), SEEK_SET) < 0) core::fail_errno("cannot seek " + path_.string());
  offset_ = offset;
}

std::string RawFile::sha256() {
  assert(digest_);
  return digest_->finish();
}

FileIdentity RawFile::identity() const {
  const struct stat status = status_of(file_, path_);
  return {static_cast<std::uint64_t>(status.st_size),
          std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

}  // namespace braise::text
