// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/offload/store.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernels/core/error.h"

namespace braise::offload {
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;  // a transfer is several pieces under way at once
constexpr int kThreads = 8;

using Log = std::function<void(std::string_view)>;

std::int64_t rounded_up(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kAlignment == 0;
}

/// A file of the folder without a name; -1 and errno.
int open_nameless(const fs::path& folder, int flags, const Log& log) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);
  // Which of these a file system without O_TMPFILE gives depends on its age.
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  std::string name = (folder / "offload-XXXXXX").string();
  const int named = ::mkostemp(name.data(), O_CLOEXEC | flags);
  if (named < 0) return -1;
  ::unlink(name.c_str());
  log("the file system of " + folder.string() + " has no O_TMPFILE: a scratch file was created and its name removed");
  return named;
}

io::FileDescriptor open_scratch(const fs::path& folder, const Log& log) {
  int fd = open_nameless(folder, O_DIRECT, log);
  if (fd < 0 && errno == EINVAL) {
    fd = open_nameless(folder, 0, log);
    if (fd >= 0) log("the file system of " + folder.string() + " has no O_DIRECT: its page cache is used");
  }
  if (fd < 0) core::fail_errno("cannot make a scratch file in " + folder.string());
  return io::FileDescriptor(fd);
}

void take_space(int fd, const fs::path& folder, std::int64_t bytes, const Log& log) {
  if (bytes == 0) return;
  struct statvfs status {};
  if (::fstatvfs(fd, &status) != 0) core::fail_errno("cannot see how much space " + folder.string() + " has");
  const auto free = static_cast<std::int64_t>(status.f_bavail * status.f_frsize);
  const auto refuse = [&] {
    throw core::Error("no space for offloading in " + folder.string() + ": " + core::bytes_text(bytes) +
                      " are needed, " + core::bytes_text(free) + " are free");
  };
  if (free < bytes) refuse();
  int code = 0;
  do {
    code = ::fallocate(fd, 0, 0, bytes);
  } while (code != 0 && errno == EINTR);
  if (code == 0) return;
  if (errno == ENOSPC || errno == EDQUOT) refuse();
  if (errno != EOPNOTSUPP) core::fail_errno("cannot take space of " + folder.string());
  log("the file system of " + folder.string() + " cannot keep space: it may yet run full");
  if (::ftruncate(fd, bytes) != 0) core::fail_errno("cannot make a scratch file in " + folder.string() + " as long");
}

/// Another description of an open file, by which it is read through the page cache.
io::FileDescriptor reopened(int fd, const std::string& name) {
  const int again = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
  if (again < 0) core::fail_errno("cannot open " + name + " a second time by way of /proc");
  return io::FileDescriptor(again);
}

std::unique_ptr<BlockIo> best_io(const Log& log) {
  std::string refusal;
  std::unique_ptr<BlockIo> io = uring_io(refusal);
  if (io != nullptr) return io;
  io = thread_io(kThreads);
  log("the system refuses io_uring (" + refusal + "): offloading by " + io->text());
  return io;
}

}  // namespace

/// A transfer's pieces, and its copy where it has one.
struct Transfer::State {
  BlockIo* io = nullptr;
  std::string file;
  bool writes = false;
  std::vector<Piece> pieces;  // does not grow once they are started
  core::Buffer copy;          // of the tensor's last `copied` bytes
  std::byte* copy_to = nullptr;
  std::int64_t copied = 0;

  ~State() {
    try {
      for (Piece& piece : pieces) io->wait(piece);
    } catch (const core::Error&) {
      std::terminate();  // the system may still write to memory that is about to be given back
    }
  }

  void finish() {
    for (Piece& piece : pieces) io->wait(piece);
    for (const Piece& piece : pieces) {
      if (piece.done == piece.bytes) continue;
      const std::string what = std::string(writes ? "cannot write " : "cannot read ") + std::to_string(piece.bytes) +
                               " bytes at byte " + std::to_string(piece.offset) + " of " + file;
      if (piece.error != 0) {
        errno = piece.error;
        core::fail_errno(what);
      }
      throw core::Error(what + ": only " + std::to_string(piece.done) + " were transferred");
    }
    if (!writes && copied > 0) std::memcpy(copy_to, copy.data(), static_cast<std::size_t>(copied));
  }
};

Transfer::Transfer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Transfer::Transfer() = default;
Transfer::Transfer(Transfer&&) noexcept = default;
Transfer& Transfer::operator=(Transfer&&) noexcept = default;
Transfer::~Transfer() = default;

bool Transfer::test() {
  if (state_ == nullptr) return true;
  for (Piece& piece : state_->pieces) {
    if (!state_->io->ended(piece)) return false;
  }
  wait();
  return true;
}

void Transfer::wait() {
  const std::unique_ptr<State> state = std::move(state_);
  if (state != nullptr) state->finish();
}

Store::Store(const fs::path& folder, core::Arena& arena, std::span<const std::int64_t> sizes, const Log& log,
             std::unique_ptr<BlockIo> io)
    : sizes_(sizes.begin(), sizes.end()),
      arena_(arena),
      name_("the scratch file in " + folder.string()),
      file_(open_scratch(folder, log)),
      cached_(reopened(file_.get(), name_)),
      io_(io != nullptr ? std::move(io) : best_io(log)) {
  std::int64_t end = 0;
  for (const std::int64_t size : sizes) {
    begins_.push_back(end);
    end += rounded_up(size);
  }
  take_space(file_.get(), folder, end, log);
}

void Store::check(const char* operation, int region, std::int64_t offset, const core::ConstTensorView& tensor) const {
  core::require(tensor.contiguous() && tensor.device().kind == core::DeviceKind::kCpu, operation,
                "tensors must be contiguous and on the CPU");
  core::require(region >= 0 && region < regions(), operation, "there is no such region");
  core::require(offset >= 0 && offset % kAlignment == 0, operation, "transfers begin at multiples of 4096 bytes");
  core::require(offset <= bytes(region) && tensor.bytes() <= bytes(region) - offset, operation,
                "the transfer does not lie within the region");
  const std::int64_t end = offset + tensor.bytes();
  core::require(end % kAlignment == 0 || end == bytes(region), operation,
                "transfers end at multiples of 4096 bytes or at the region's end");
}

Transfer Store::read(int region, std::int64_t offset, const core::TensorView& tensor) {
  check("read", region, offset, tensor);
  return start(region, offset, static_cast<std::byte*>(tensor.raw()), tensor.bytes(), false);
}

Transfer Store::write(int region, std::int64_t offset, const core::ConstTensorView& tensor) {
  check("write", region, offset, tensor);
  return start(region, offset, static_cast<std::byte*>(const_cast<void*>(tensor.raw())), tensor.bytes(), true);
}

void Store::read_bytes(int region, std::int64_t offset, std::span<std::byte> to) const {
  core::require(region >= 0 && region < regions() && offset >= 0 &&
                    offset + static_cast<std::int64_t>(to.size()) <= bytes(region),
                "read_bytes", "the bytes do not lie within a region");
  const std::int64_t begin = begins_[static_cast<std::size_t>(region)] + offset;
  io::read_at(cached_.get(), to, static_cast<std::uint64_t>(begin), name_);
}

Transfer Store::start(int region, std::int64_t offset, std::byte* data, std::int64_t bytes, bool writes) {
  auto state = std::make_unique<Transfer::State>();
  state->io = io_.get();
  state->file = name_;
  state->writes = writes;
  // Whole blocks go straight; a last one that is short, or memory that does not lie as it must, goes by a copy.
  const std::int64_t direct = is_aligned(data) ? bytes / kAlignment * kAlignment : 0;
  state->copied = bytes - direct;
  state->copy_to = data + direct;
  if (state->copied > 0) {
    // As large as makes an arena align it to a page.
    const std::int64_t size = std::max(rounded_up(state->copied), std::int64_t{64} << 10);
    state->copy = arena_.allocate(size, core::Category::kWorkspace, "offload copy");
    if (writes) {
      std::memset(state->copy.data(), 0, static_cast<std::size_t>(rounded_up(state->copied)));
      std::memcpy(state->copy.data(), state->copy_to, static_cast<std::size_t>(state->copied));
    }
  }
  const std::int64_t begin = begins_[static_cast<std::size_t>(region)] + offset;
  const auto add = [&](std::int64_t at, std::byte* from, std::int64_t count) {
    for (std::int64_t done = 0; done < count; done += kPieceBytes) {
      Piece piece;
      piece.writes = writes;
      piece.fd = file_.get();
      piece.offset = at + done;
      piece.data = from + done;
      piece.bytes = std::min(kPieceBytes, count - done);
      piece.ended = true;  // not started
      state->pieces.push_back(piece);
    }
  };
  add(begin, data, direct);
  add(begin + direct, static_cast<std::byte*>(state->copy.data()), rounded_up(state->copied));
  for (Piece& piece : state->pieces) io_->start(piece);
  return Transfer(std::move(state));
}

}  // namespace braise::offload
