// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/offload/chunk_loop.h"

#include <algorithm>
#include <utility>

#include "kernels/core/error.h"

namespace braise::offload {

ChunkLoop::ChunkLoop(Store& store, core::Arena& arena, std::vector<Item> items, std::int64_t elements,
                     std::int64_t chunk_elements, int depth, std::string owner)
    : store_(store), items_(std::move(items)), elements_(elements), chunk_elements_(chunk_elements) {
  constexpr const char* kName = "ChunkLoop";
  core::require(elements >= 0 && chunk_elements > 0 && chunk_elements % kBlockElements == 0, kName,
                "chunks must be whole blocks of 4096 elements");
  core::require(depth >= 2, kName, "at least two chunks must be in memory");
  for (const Item& item : items_) {
    core::require(core::bits(item.dtype) >= 8, kName, "elements must be whole bytes");
    core::require(item.region >= 0 && item.region < store.regions() &&
                      store.bytes(item.region) == elements * core::bits(item.dtype) / 8,
                  kName, "an item's region must hold its elements");
  }
  chunk_elements_ = std::min(
      chunk_elements_, std::max<std::int64_t>(1, (elements + kBlockElements - 1) / kBlockElements) * kBlockElements);
  slots_.resize(static_cast<std::size_t>(std::clamp<std::int64_t>(chunks(), 1, depth)));
  std::vector<std::span<std::byte>> memory;
  for (const Item& item : items_) {
    const std::int64_t bytes = chunk_elements_ * core::bits(item.dtype) / 8;
    // Large enough that the arena aligns it to a page.
    const std::int64_t size = std::max(bytes * static_cast<std::int64_t>(slots_.size()), std::int64_t{64} << 10);
    buffers_.push_back(arena.allocate(size, item.category, owner));
    memory.emplace_back(static_cast<std::byte*>(buffers_.back().data()), static_cast<std::size_t>(size));
    for (std::size_t s = 0; s < slots_.size(); ++s) {
      slots_[s].memory.push_back(
          buffers_.back().view(item.dtype, core::Shape{chunk_elements_}, static_cast<std::int64_t>(s) * bytes));
    }
  }
  registered_ = store.use_memory(memory);
}

std::vector<core::TensorView> ChunkLoop::tensors(std::int64_t chunk) {
  const std::int64_t count = std::min(chunk_elements_, elements_ - chunk * chunk_elements_);
  std::vector<core::TensorView> views;
  for (const core::TensorView& memory : slot(chunk).memory) views.push_back(memory.slice(0, 0, count));
  return views;
}

void ChunkLoop::wait(Slot& slot) {
  for (Transfer& transfer : slot.transfers) transfer.wait();
  slot.transfers.clear();
}

void ChunkLoop::read(std::int64_t chunk) {
  wait(slot(chunk));  // what was there is written
  const std::vector<core::TensorView> views = tensors(chunk);
  for (std::size_t i = 0; i < items_.size(); ++i) {
    const std::int64_t offset = chunk * chunk_elements_ * core::bits(items_[i].dtype) / 8;
    slot(chunk).transfers.push_back(store_.read(items_[i].region, offset, views[i]));
  }
}

void ChunkLoop::prefetch() {
  // One slot is left for what is being written.
  const auto ahead = std::max<std::int64_t>(1, static_cast<std::int64_t>(slots_.size()) - 1);
  flush();  // a chunk may still be being written from another slot than it is read into
  for (; read_ahead_ < std::min(ahead, chunks()); ++read_ahead_) read(read_ahead_);
}

void ChunkLoop::run(const Work& work) {
  prefetch();
  // Half of the slots are read ahead, the others are worked on and written.
  const auto ahead = std::max<std::int64_t>(1, static_cast<std::int64_t>(slots_.size()) / 2);
  for (std::int64_t chunk = 0; chunk < chunks(); ++chunk) {
    if (read_ahead_ <= chunk) read(read_ahead_++);
    wait(slot(chunk));
    const std::vector<core::TensorView> views = tensors(chunk);
    const std::int64_t begin = chunk * chunk_elements_;
    work(begin, begin + views.front().elements(), views);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (!items_[i].written) continue;
      const std::int64_t offset = begin * core::bits(items_[i].dtype) / 8;
      slot(chunk).transfers.push_back(store_.write(items_[i].region, offset, views[i]));
    }
    while (read_ahead_ < chunks() && read_ahead_ <= chunk + ahead) read(read_ahead_++);
  }
  read_ahead_ = 0;
}

void ChunkLoop::flush() {
  if (read_ahead_ > 0) return;  // all is written: reading has begun since
  for (Slot& slot : slots_) wait(slot);
}

}  // namespace braise::offload
