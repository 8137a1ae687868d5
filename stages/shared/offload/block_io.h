// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace braise::offload {

/// One piece of a file to be read or written. It belongs to a BlockIo from start() until it has ended.
struct Piece {
  bool writes = false;
  int fd = -1;
  std::int64_t offset = 0;
  std::byte* data = nullptr;
  std::int64_t bytes = 0;

  std::int64_t done = 0;  ///< bytes
  int error = 0;          ///< an errno; 0 and done < bytes: the file ended, or took no more
  bool ended = false;
};

/// Reads and writes files while the calling thread goes on. Used by one thread at a time.
class BlockIo {
 public:
  virtual ~BlockIo() = default;  ///< waits for what is under way

  virtual std::string text() const = 0;  ///< for logs: "io_uring"

  /// Begins a piece. What comes short is taken further until the piece is done or fails.
  virtual void start(Piece& piece) = 0;

  /// Whether it has ended. Errors: core::Error where the system refuses to say.
  virtual bool ended(Piece& piece) = 0;
  virtual void wait(Piece& piece) = 0;

  /// Memory that pieces will lie in, of now on and instead of earlier; whether that makes them cheaper. Nothing may be
  /// under way.
  virtual bool use_memory(std::span<const std::span<std::byte>> memory) = 0;
};

/// By io_uring; none, and why in `refusal`, where the system refuses it.
std::unique_ptr<BlockIo> uring_io(std::string& refusal);

/// By threads that call pread and pwrite.
std::unique_ptr<BlockIo> thread_io(int threads);

}  // namespace braise::offload
