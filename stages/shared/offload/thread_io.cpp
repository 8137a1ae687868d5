// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "stages/shared/offload/block_io.h"

namespace braise::offload {
namespace {

class ThreadIo final : public BlockIo {
 public:
  explicit ThreadIo(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }

  ~ThreadIo() override {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadIo(const ThreadIo&) = delete;
  ThreadIo& operator=(const ThreadIo&) = delete;

  std::string text() const override { return std::to_string(threads_.size()) + " threads with pread and pwrite"; }

  void start(Piece& piece) override {
    piece.done = 0;
    piece.error = 0;
    {
      const std::scoped_lock lock(mutex_);
      piece.ended = piece.bytes == 0;
      if (piece.ended) return;
      waiting_.push_back(&piece);
    }
    changed_.notify_all();
  }

  bool ended(Piece& piece) override {
    const std::scoped_lock lock(mutex_);
    return piece.ended;
  }

  void wait(Piece& piece) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return piece.ended; });
  }

  bool use_memory(std::span<const std::span<std::byte>>) override { return false; }

 private:
  static void transfer(Piece& piece) {
    while (piece.done < piece.bytes) {
      std::byte* const data = piece.data + piece.done;
      const auto bytes = static_cast<std::size_t>(piece.bytes - piece.done);
      const off_t offset = piece.offset + piece.done;
      const ssize_t result =
          piece.writes ? ::pwrite(piece.fd, data, bytes, offset) : ::pread(piece.fd, data, bytes, offset);
      if (result < 0 && errno == EINTR) continue;
      if (result < 0) piece.error = errno;
      if (result <= 0) return;
      piece.done += result;
    }
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      Piece& piece = *waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      transfer(piece);
      lock.lock();
      piece.ended = true;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece*> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<BlockIo> thread_io(int threads) {
  return std::make_unique<ThreadIo>(threads);
}

}  // namespace braise::offload
