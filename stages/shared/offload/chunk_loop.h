// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/ledger.h"
#include "kernels/core/tensor.h"
#include "stages/shared/offload/store.h"

namespace braise::offload {

/// Cuts of chunks are at multiples of so many elements, as those of shards are.
inline constexpr std::int64_t kBlockElements = 4096;

/// Works through tensors of a store that are too large for memory, chunk by chunk: while one is worked on, the next are
/// read and the last ones written.
class ChunkLoop {
 public:
  struct Item {
    int region = 0;  ///< of `elements` elements
    core::Dtype dtype = core::Dtype::kFloat32;
    bool written = true;  ///< whether work changes it
    core::Category category = core::Category::kOptimizer;
  };

  /// Gets elements [begin, end) of each item as one-dimensional tensors, in the order of the items.
  using Work = std::function<void(std::int64_t begin, std::int64_t end, std::span<const core::TensorView> tensors)>;

  /// chunk_elements: a multiple of kBlockElements. `depth`: chunks in memory at once, at least 2; a buffer for each is
  /// taken from the arena, which must outlive it, as the store must.
  ChunkLoop(Store& store, core::Arena& arena, std::vector<Item> items, std::int64_t elements,
            std::int64_t chunk_elements, int depth, std::string owner);
  ~ChunkLoop() = default;  ///< waits for what is under way; errors of writes are lost, so flush before
  ChunkLoop(const ChunkLoop&) = delete;
  ChunkLoop& operator=(const ChunkLoop&) = delete;

  /// Starts to read the first chunks, for the next run. Their regions must not be written by others until then.
  void prefetch();

  /// Calls `work` for each chunk in order. The last chunks may still be being written when it returns. Errors:
  /// core::Error of transfers, or what `work` throws; which chunks were written before is then unknown.
  void run(const Work& work);

  /// Waits until all is written. Errors: core::Error.
  void flush();

  /// Whether transfers use memory registered with the system.
  bool registered() const { return registered_; }

 private:
  struct Slot {
    std::vector<core::TensorView> memory;  // by item, of chunk_elements
    std::vector<Transfer> transfers;
  };
  std::int64_t chunks() const { return (elements_ + chunk_elements_ - 1) / chunk_elements_; }
  std::vector<core::TensorView> tensors(std::int64_t chunk);
  Slot& slot(std::int64_t chunk) { return slots_[static_cast<std::size_t>(chunk) % slots_.size()]; }
  void read(std::int64_t chunk);
  static void wait(Slot& slot);

  Store& store_;
  std::vector<Item> items_;
  std::int64_t elements_;
  std::int64_t chunk_elements_;
  std::vector<core::Buffer> buffers_;
  std::vector<Slot> slots_;      // after the buffers: they wait for their transfers first
  std::int64_t read_ahead_ = 0;  // chunks whose reading has begun
  bool registered_ = false;
};

}  // namespace braise::offload
