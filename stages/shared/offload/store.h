// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/tensor.h"
#include "stages/shared/io/file.h"
#include "stages/shared/offload/block_io.h"

namespace braise::offload {

/// Where transfers may begin within a region: what O_DIRECT asks.
inline constexpr std::int64_t kAlignment = 4096;

/// A read or write that may still go on. The tensor must live and stay untouched until it is done; destroying it waits.
class Transfer {
 public:
  Transfer();  ///< done
  Transfer(Transfer&&) noexcept;
  Transfer& operator=(Transfer&&) noexcept;
  ~Transfer();

  /// Whether it is done. Errors: as wait.
  bool test();

  /// Blocks until it is done. Errors: core::Error naming the file where it failed: the system's reason, or that it came
  /// short. What a failed write was to replace may be there in part.
  void wait();

 private:
  friend class Store;
  struct State;
  explicit Transfer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Bytes of tensors kept outside of a device's arena, in regions of a file of `folder` that has no name, so that
/// nothing is left of it however this process ends. Used by one thread at a time; it outlives its transfers.
class Store {
 public:
  /// Regions of so many bytes; the file's space is taken at once. It is read and written past the page cache by `io`,
  /// where that is null by io_uring; what the system does not have is replaced by the next best, and `log` told so.
  /// `arena`: of the copies that tensors which are not aligned need. Errors: core::Error naming the folder where the
  /// file cannot be made or has no space.
  Store(const std::filesystem::path& folder, core::Arena& arena, std::span<const std::int64_t> sizes,
        const std::function<void(std::string_view)>& log, std::unique_ptr<BlockIo> io = nullptr);

  int regions() const { return static_cast<int>(sizes_.size()); }
  std::int64_t bytes(int region) const { return sizes_.at(static_cast<std::size_t>(region)); }

  /// tensor = the bytes of a region from `offset` on, and back. tensor: contiguous, anywhere (transfers of memory that
  /// starts at a multiple of 4096 are not copied once more). offset: a multiple of kAlignment; a transfer ends at
  /// another, or at the region's end. Transfers of the same bytes must not overlap in time where one writes.
  Transfer read(int region, std::int64_t offset, const core::TensorView& tensor);
  Transfer write(int region, std::int64_t offset, const core::ConstTensorView& tensor);

  /// to = the bytes of a region from `offset` on, by way of the page cache, while no transfer writes them: of any
  /// number at any place, and by any thread. Errors: core::Error naming the file.
  void read_bytes(int region, std::int64_t offset, std::span<std::byte> to) const;

  /// Memory that transfers will use again and again; see BlockIo::use_memory.
  bool use_memory(std::span<const std::span<std::byte>> memory) { return io_->use_memory(memory); }

 private:
  void check(const char* operation, int region, std::int64_t offset, const core::ConstTensorView& tensor) const;
  Transfer start(int region, std::int64_t offset, std::byte* data, std::int64_t bytes, bool writes);

  std::vector<std::int64_t> sizes_, begins_;  // of regions
  core::Arena& arena_;
  std::string name_;
  io::FileDescriptor file_;
  io::FileDescriptor cached_;  ///< the same file, without O_DIRECT
  std::unique_ptr<BlockIo> io_;
};

}  // namespace braise::offload
