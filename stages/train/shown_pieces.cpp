// SPDX-License-Identifier: Apache-2.0
#include "stages/train/shown_pieces.h"

#include "kernels/core/copy.h"

namespace braise::train {

void ShownPieces::make(core::Arena& host, const Disk& disk, std::span<const std::int64_t> bytes) {
  clear();
  std::int64_t all = 0;
  for (const std::int64_t size : bytes) {
    begins_.push_back(all);
    all += (size + offload::kAlignment - 1) / offload::kAlignment * offload::kAlignment;
  }
  const core::MemoryLedger& ledger = host.ledger();
  const std::int64_t room = ledger.budget_bytes(core::Space::kHost) - ledger.total_bytes(core::Space::kHost);
  // The other half is for the tensor that is whole meanwhile, and what else a save needs.
  if (all <= room / 2) {
    memory_ = host.allocate(all, core::Category::kCheckpoint, "checkpoint");
    return;
  }
  disk.log("resources.host_memory has no room for " + core::bytes_text(all) +
           " of tensors that ranks share: a checkpoint is made of them on the disk");
  store_ = std::make_unique<offload::Store>(disk.folder, host, bytes, disk.log);
}

checkpoint::Content ShownPieces::put(core::Stream& stream, int place, const core::TensorView& tensor) {
  if (store_ == nullptr) {
    const core::TensorView copy =
        memory_.view(tensor.dtype(), tensor.shape(), begins_[static_cast<std::size_t>(place)]);
    core::copy(stream, copy, tensor);
    return copy;
  }
  store_->write(place, 0, tensor).wait();
  return content_of(*store_, place, tensor.dtype(), tensor.elements());
}

void ShownPieces::clear() {
  memory_.reset();
  begins_.clear();
  store_.reset();
}

}  // namespace braise::train
