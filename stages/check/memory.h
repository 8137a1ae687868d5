// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace braise::check {

/// A large array that OpenMP's threads read or copy, each its own part, which it also touched first.
class MemoryArray {
 public:
  /// `bytes` is rounded down to whole cache lines for each thread and half.
  explicit MemoryArray(std::uint64_t bytes);

  /// Reads the whole array once; gives the number of bytes read.
  std::uint64_t read();
  /// Copies the first half over the second; gives the number of bytes read and written together.
  std::uint64_t copy();

 private:
  struct Free {
    void operator()(std::byte* pointer) const;
  };

  int threads_;
  std::uint64_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
  std::uint64_t sum_ = 0;  ///< of what was read, so that reading cannot be left out
};

}  // namespace braise::check
