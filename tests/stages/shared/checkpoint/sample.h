// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/ledger.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/saver.h"
#include "tests/support/thread_ranks.h"

namespace braise::checkpoint {

/// A tensor of a training that there never was.
struct SampleTensor {
  std::string path;
  core::Dtype dtype = core::Dtype::kFloat32;
  core::Shape shape;
  std::vector<std::byte> bytes;

  std::int64_t element_bytes() const { return core::bits(dtype) / 8; }
  core::ConstTensorView view(Range range) const {
    return core::ConstTensorView(bytes.data() + range.begin * element_bytes(), dtype, {range.elements()});
  }
};
using Sample = std::vector<SampleTensor>;

/// Bytes that differ with the seed.
SampleTensor sample_tensor(const std::string& path, core::Dtype dtype, const core::Shape& shape, std::uint64_t seed);

/// Every dtype; odd shapes, a scalar, tensors without elements, of less than a block, of several chunks.
Sample sample(std::uint64_t seed);

/// A few KiB.
Sample small_sample(std::uint64_t seed);

nlohmann::json sample_metadata(std::int64_t step);

/// What a rank needs to save.
struct Host {
  explicit Host(std::int64_t budget_bytes = core::kUnlimited) : ledger(core::kUnlimited, budget_bytes) {}
  core::MemoryLedger ledger;
  core::Arena arena{core::kCpu, core::Space::kHost, ledger};
  std::unique_ptr<core::Stream> stream = core::make_stream(arena);
};

/// The share of a rank, in one piece for each tensor.
std::vector<Piece> pieces_of(const Sample& sample, int rank, int ranks);

/// Collects lines from any thread.
class Lines {
 public:
  std::function<void(std::string_view)> writer() {
    return [this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      text_ += std::string(line) + "\n";
    };
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
};

/// Saves one checkpoint with that many ranks, and gives its folder.
std::filesystem::path save_sample(const std::filesystem::path& attempt, const Sample& sample, std::int64_t step,
                                  int ranks = 1);

/// REQUIREs that the checkpoint holds the sample, whole tensor by whole tensor.
void require_equal(const Checkpoint& checkpoint, const Sample& sample);

/// What is wrong with a checkpoint when it is opened and wholly verified; empty: nothing.
std::string fault_of(const std::filesystem::path& folder);

}  // namespace braise::checkpoint
