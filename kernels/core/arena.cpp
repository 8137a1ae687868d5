// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "kernels/core/error.h"

namespace braise::core {
namespace {

constexpr std::int64_t kBlockAlignment = 256;
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kLargeBlock = 64 << 10;
constexpr std::int64_t kHugePage = 2 << 20;
constexpr std::int64_t kRegion = 32 << 20;  // small against a model, large against the cost of taking one

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// What an allocation takes: a large block is whole pages at a page's start.
std::int64_t reserved_bytes(std::int64_t bytes) {
  return bytes >= kLargeBlock ? rounded_up(bytes, kPage)
                              : rounded_up(std::max<std::int64_t>(bytes, 1), kBlockAlignment);
}

std::int64_t alignment_of(std::int64_t reserved) {
  return reserved >= kLargeBlock ? kPage : kBlockAlignment;
}

void* take_from_system(std::int64_t bytes) {
  // Aligned to a huge page: mapped larger, the ends given back.
  const auto size = static_cast<std::size_t>(bytes);
  const std::size_t larger = size + kHugePage;
  void* const mapped =
      mmap(nullptr, larger, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) fail_errno("the system has no " + bytes_text(bytes) + " more of memory");
  const auto start = reinterpret_cast<std::uintptr_t>(mapped);
  const std::uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > start) munmap(mapped, aligned - start);
  if (start + larger > aligned + size) {
    munmap(reinterpret_cast<void*>(aligned + size),
           start + larger - aligned - size);  // NOLINT(performance-no-int-to-ptr)
  }
  void* const region = reinterpret_cast<void*>(aligned);  // NOLINT(performance-no-int-to-ptr)
  madvise(region, size, MADV_HUGEPAGE);                   // advice: first touch is several times faster where taken
  return region;
}

}  // namespace

struct Arena::State {
  State(Device at, Space in, MemoryLedger& account) : device(at), space(in), ledger(account) {}

  using Address = std::uintptr_t;

  const Device device;
  const Space space;
  MemoryLedger& ledger;

  std::mutex mutex;
  std::map<Address, std::int64_t> regions;          // start -> bytes
  std::map<Address, std::int64_t> free_by_address;  // start -> bytes; neighbours within a region are joined
  std::set<std::pair<std::int64_t, Address>> free_by_size;
  std::int64_t system = 0;
  std::int64_t system_peak = 0;
  std::int64_t system_allocations = 0;
  std::int64_t blocks = 0;

  void insert_free(Address start, std::int64_t bytes) {
    free_by_address.emplace(start, bytes);
    free_by_size.emplace(bytes, start);
  }
  void erase_free(Address start, std::int64_t bytes) {
    free_by_address.erase(start);
    free_by_size.erase({bytes, start});
  }

  /// The start of a block of `bytes`, taken from a free one; 0 if none fits.
  Address take(std::int64_t bytes) {
    const auto alignment = static_cast<Address>(alignment_of(bytes));
    for (auto it = free_by_size.lower_bound({bytes, 0}); it != free_by_size.end(); ++it) {
      const auto [size, start] = *it;
      const Address aligned = (start + alignment - 1) / alignment * alignment;
      const auto skipped = static_cast<std::int64_t>(aligned - start);
      if (skipped + bytes > size) continue;
      erase_free(start, size);
      if (skipped > 0) insert_free(start, skipped);
      if (size - skipped > bytes) insert_free(aligned + static_cast<Address>(bytes), size - skipped - bytes);
      return aligned;
    }
    return 0;
  }

  void give(Address start, std::int64_t bytes) {
    auto next = free_by_address.lower_bound(start);
    // Regions may lie side by side by chance; a block must stay within one, which goes back to the system as a whole.
    if (next != free_by_address.end() && next->first == start + static_cast<Address>(bytes) &&
        !regions.contains(next->first)) {
      const auto joined = *next;
      erase_free(joined.first, joined.second);
      bytes += joined.second;
    }
    auto previous = free_by_address.lower_bound(start);
    if (previous != free_by_address.begin() && !regions.contains(start)) {
      --previous;
      if (previous->first + static_cast<Address>(previous->second) == start) {
        const auto joined = *previous;
        erase_free(joined.first, joined.second);
        start = joined.first;
        bytes += joined.second;
      }
    }
    insert_free(start, bytes);
  }

  void trim() {
    for (auto it = regions.begin(); it != regions.end();) {
      const auto found = free_by_address.find(it->first);
      if (found == free_by_address.end() || found->second != it->second) {
        ++it;
        continue;
      }
      erase_free(it->first, it->second);
      system -= it->second;
      munmap(reinterpret_cast<void*>(it->first),
             static_cast<std::size_t>(it->second));  // NOLINT(performance-no-int-to-ptr)
      it = regions.erase(it);
    }
  }

  /// One region more, in which `bytes` fit.
  void grow(std::int64_t bytes) {
    const std::int64_t budget = ledger.budget_bytes(space);
    std::int64_t size = std::max(kRegion, rounded_up(bytes, kHugePage));
    if (size > budget - system) trim();
    if (size > budget - system) size = rounded_up(bytes, kPage);
    if (size > budget - system) {
      throw Error(std::string(name(space)) + " memory: no free block of " + bytes_text(bytes) + ", and the budget of " +
                  bytes_text(budget) + " is all but " + bytes_text(budget - system) +
                  " taken from the system, in pieces that are too small; " + ledger.text(space));
    }
    const auto start = reinterpret_cast<Address>(take_from_system(size));
    regions.emplace(start, size);
    insert_free(start, size);
    system += size;
    system_peak = std::max(system_peak, system);
    ++system_allocations;
  }
};

Arena::Arena(Device device, Space space, MemoryLedger& ledger)
    : state_(std::make_unique<State>(device, space, ledger)) {
  if (device.kind != DeviceKind::kCpu) {
    throw Error("an arena on " + device.text() + ": this build has no CUDA backend; use device: cpu");
  }
}

Arena::~Arena() {
  state_->trim();
  // Whoever still holds a Buffer would write into memory given back: a bug that must not pass unseen.
  if (state_->blocks != 0) std::terminate();
}

Device Arena::device() const {
  return state_->device;
}
MemoryLedger& Arena::ledger() const {
  return state_->ledger;
}

Buffer Arena::allocate(std::int64_t bytes, Category category, std::string_view owner) {
  if (bytes < 0) throw Error("an allocation of " + std::to_string(bytes) + " bytes");
  const std::int64_t reserved = reserved_bytes(bytes);
  Buffer buffer;
  buffer.owner_ = std::string(owner);
  state_->ledger.charge(state_->space, category, owner, reserved);
  try {
    const std::scoped_lock lock(state_->mutex);
    State::Address start = state_->take(reserved);
    if (start == 0) {
      state_->grow(reserved);
      start = state_->take(reserved);
    }
    buffer.data_ = reinterpret_cast<void*>(start);  // NOLINT(performance-no-int-to-ptr)
    ++state_->blocks;
  } catch (...) {
    state_->ledger.release(state_->space, category, owner, reserved);
    throw;
  }
  buffer.arena_ = this;
  buffer.bytes_ = bytes;
  buffer.reserved_ = reserved;
  buffer.category_ = category;
  return buffer;
}

Tensor Arena::tensor(Dtype dtype, const Shape& shape, Category category, std::string_view owner) {
  const std::int64_t bytes = ConstTensorView(nullptr, dtype, shape).bytes();
  Tensor tensor;
  tensor.buffer = allocate(bytes, category, owner);
  tensor.view = tensor.buffer.view(dtype, shape);
  return tensor;
}

void Arena::trim() {
  const std::scoped_lock lock(state_->mutex);
  state_->trim();
}

std::int64_t Arena::system_bytes() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->system;
}

std::int64_t Arena::system_peak_bytes() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->system_peak;
}

std::int64_t Arena::system_allocations() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->system_allocations;
}

void Arena::give_back(Buffer& buffer) {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->give(reinterpret_cast<State::Address>(buffer.data_), buffer.reserved_);
    --state_->blocks;
  }
  state_->ledger.release(state_->space, buffer.category_, buffer.owner_, buffer.reserved_);
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  reset();
  arena_ = std::exchange(other.arena_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  reserved_ = std::exchange(other.reserved_, 0);
  category_ = other.category_;
  owner_ = std::move(other.owner_);
  return *this;
}

Buffer::~Buffer() {
  reset();
}

void Buffer::reset() {
  if (arena_ != nullptr) arena_->give_back(*this);
  arena_ = nullptr;
  data_ = nullptr;
  bytes_ = 0;
  reserved_ = 0;
}

TensorView Buffer::view(Dtype dtype, const Shape& shape, std::int64_t offset_bytes) const {
  const Device device = arena_ != nullptr ? arena_->device() : kCpu;
  const std::int64_t needed = ConstTensorView(nullptr, dtype, shape).bytes();
  if (offset_bytes < 0 || needed > bytes_ - offset_bytes) {
    throw Error(std::string(name(dtype)) + "[" + shape.text() + "] at byte " + std::to_string(offset_bytes) +
                " does not fit a buffer of " + std::to_string(bytes_) + " bytes");
  }
  return TensorView(static_cast<std::byte*>(data_) + offset_bytes, dtype, shape, device);
}

}  // namespace braise::core
