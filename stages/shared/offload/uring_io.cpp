// SPDX-License-Identifier: Apache-2.0
#include <liburing.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <vector>

#include "kernels/core/error.h"
#include "stages/shared/offload/block_io.h"

namespace braise::offload {
namespace {

constexpr unsigned kDepth = 128;  // pieces under way; more wait for one to end
constexpr std::size_t kMostRegistered = std::size_t{1} << 30;

[[noreturn]] void fail(const char* call, int code) {
  errno = -code;
  core::fail_errno(call);
}

class UringIo final : public BlockIo {
 public:
  explicit UringIo(io_uring ring) : ring_(ring) {}

  ~UringIo() override {
    waiting_.clear();
    while (under_way_ > 0) {
      io_uring_cqe* entry = nullptr;
      const int code = io_uring_wait_cqe(&ring_, &entry);
      if (code == -EINTR) continue;
      if (code < 0) break;
      io_uring_cqe_seen(&ring_, entry);
      --under_way_;
    }
    io_uring_queue_exit(&ring_);
  }
  UringIo(const UringIo&) = delete;
  UringIo& operator=(const UringIo&) = delete;

  std::string text() const override { return "io_uring"; }

  void start(Piece& piece) override {
    piece.done = 0;
    piece.error = 0;
    piece.ended = piece.bytes == 0;
    if (piece.ended) return;
    waiting_.push_back(&piece);
    submit();
  }

  bool ended(Piece& piece) override {
    io_uring_cqe* entry = nullptr;
    while (!piece.ended && io_uring_peek_cqe(&ring_, &entry) == 0) take(*entry);
    submit();
    return piece.ended;
  }

  void wait(Piece& piece) override {
    submit();
    while (!piece.ended) {
      io_uring_cqe* entry = nullptr;
      const int code = io_uring_wait_cqe(&ring_, &entry);
      if (code == -EINTR) continue;
      if (code < 0) fail("io_uring_wait_cqe", code);
      take(*entry);
      submit();
    }
  }

  bool use_memory(std::span<const std::span<std::byte>> memory) override {
    if (!registered_.empty()) io_uring_unregister_buffers(&ring_);
    registered_.clear();
    std::vector<iovec> vectors;
    for (const std::span<std::byte> one : memory) {
      if (one.size() > kMostRegistered) return false;
      vectors.push_back({one.data(), one.size()});
    }
    if (vectors.empty()) return false;
    if (io_uring_register_buffers(&ring_, vectors.data(), static_cast<unsigned>(vectors.size())) < 0) return false;
    registered_ = vectors;
    return true;
  }

 private:
  /// The index of the registered memory that the piece lies in; -1: none.
  int index_of(const Piece& piece) const {
    for (std::size_t i = 0; i < registered_.size(); ++i) {
      const auto* const base = static_cast<const std::byte*>(registered_[i].iov_base);
      if (piece.data >= base && piece.data + piece.bytes <= base + registered_[i].iov_len) return static_cast<int>(i);
    }
    return -1;
  }

  void submit() {
    bool any = false;
    while (!waiting_.empty() && under_way_ < kDepth) {
      io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
      if (entry == nullptr) break;
      Piece& piece = *waiting_.front();
      waiting_.pop_front();
      const int index = index_of(piece);
      std::byte* const data = piece.data + piece.done;
      const auto bytes = static_cast<unsigned>(piece.bytes - piece.done);
      const auto offset = static_cast<std::uint64_t>(piece.offset + piece.done);
      if (piece.writes && index >= 0) {
        io_uring_prep_write_fixed(entry, piece.fd, data, bytes, offset, index);
      } else if (piece.writes) {
        io_uring_prep_write(entry, piece.fd, data, bytes, offset);
      } else if (index >= 0) {
        io_uring_prep_read_fixed(entry, piece.fd, data, bytes, offset, index);
      } else {
        io_uring_prep_read(entry, piece.fd, data, bytes, offset);
      }
      io_uring_sqe_set_data(entry, &piece);
      ++under_way_;
      any = true;
    }
    // What the kernel has not taken stays in the ring for the next time.
    if (!any && io_uring_sq_ready(&ring_) == 0) return;
    for (;;) {
      const int code = io_uring_submit(&ring_);
      if (code >= 0 || code == -EAGAIN || code == -EBUSY) return;
      if (code != -EINTR) fail("io_uring_submit", code);
    }
  }

  void take(io_uring_cqe& entry) {
    Piece& piece = *static_cast<Piece*>(io_uring_cqe_get_data(&entry));
    const int result = entry.res;
    io_uring_cqe_seen(&ring_, &entry);
    --under_way_;
    if (result == -EAGAIN || result == -EINTR) {
      waiting_.push_front(&piece);
      return;
    }
    if (result <= 0) {
      piece.error = -result;
      piece.ended = true;
      return;
    }
    piece.done += result;
    piece.ended = piece.done == piece.bytes;
    if (!piece.ended) waiting_.push_front(&piece);
  }

  io_uring ring_;
  std::deque<Piece*> waiting_;
  unsigned under_way_ = 0;
  std::vector<iovec> registered_;
};

}  // namespace

std::unique_ptr<BlockIo> uring_io(std::string& refusal) {
  io_uring ring;
  const int code = io_uring_queue_init(kDepth, &ring, 0);
  if (code < 0) {
    refusal = std::strerror(-code);
    return nullptr;
  }
  return std::make_unique<UringIo>(ring);
}

}  // namespace braise::offload
