// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/core/device.h"
#include "kernels/core/ledger.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// Memory of an arena, given back when it is destroyed. Move-only. The arena must outlive it. Content is not set.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }  ///< as asked for
  explicit operator bool() const { return data_ != nullptr; }

  /// Gives the memory back now.
  void reset();

  /// A contiguous tensor that starts `offset_bytes` into it. Errors: core::Error if it does not fit.
  TensorView view(Dtype dtype, const Shape& shape, std::int64_t offset_bytes = 0) const;

 private:
  friend class Arena;
  Arena* arena_ = nullptr;
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  std::int64_t reserved_ = 0;  // as taken from the arena
  Category category_ = Category::kWorkspace;
  std::string owner_;
};

/// A tensor with memory of its own.
struct Tensor {
  Buffer buffer;
  TensorView view;
};

/// Memory of one device, taken from the system in large regions and used again: once a program's pattern of allocations
/// repeats, nothing more is taken from the system. Blocks start at multiples of 256 bytes, those of 64 KiB and more
/// at multiples of 4096 (what O_DIRECT asks). A freed block joins its free neighbours; an allocation takes the smallest
/// free block that fits, the lowest where several do. Threads may call it at once.
class Arena {
 public:
  /// The ledger must outlive the arena. Errors: core::Error where this build has no backend for the device.
  Arena(Device device, Space space, MemoryLedger& ledger);
  ~Arena();  ///< every Buffer must be gone
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Device device() const;
  MemoryLedger& ledger() const;

  /// `bytes` may be 0. Errors: core::Error when the budget would be exceeded, or the system has no more.
  Buffer allocate(std::int64_t bytes, Category category, std::string_view owner);

  /// A contiguous tensor.
  Tensor tensor(Dtype dtype, const Shape& shape, Category category, std::string_view owner);

  /// Gives regions in which nothing is held back to the system.
  void trim();

  std::int64_t system_bytes() const;        ///< held from the system now
  std::int64_t system_peak_bytes() const;   ///< held from the system at most
  std::int64_t system_allocations() const;  ///< regions ever taken from the system

 private:
  friend class Buffer;
  void give_back(Buffer& buffer);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace braise::core
