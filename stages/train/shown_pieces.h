// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/checkpoint/piece.h"
#include "stages/shared/offload/store.h"
#include "stages/train/unit_file.h"

namespace braise::train {

/// Copies of tensors while a checkpoint is made of them: in the host's memory, or on a disk where its budget has no
/// room for all.
class ShownPieces {
 public:
  /// Room for tensors of so many bytes, in place of earlier ones. The arena must outlive it. Errors: core::Error where
  /// the disk has no room either.
  void make(core::Arena& host, const Disk& disk, std::span<const std::int64_t> bytes);

  /// A copy of a tensor, of as many bytes as number `place` of those: until clear() or make().
  checkpoint::Content put(core::Stream& stream, int place, const core::TensorView& tensor);

  void clear();

 private:
  core::Buffer memory_;
  std::vector<std::int64_t> begins_;  // in memory
  std::unique_ptr<offload::Store> store_;
};

}  // namespace braise::train
