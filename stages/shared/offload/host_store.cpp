// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "stages/shared/offload/store.h"

namespace braise::offload {
namespace {

class HostStore final : public Store {
 public:
  HostStore(core::Arena& arena, std::span<const std::int64_t> sizes, core::Category category, std::string_view owner)
      : Store(sizes) {
    for (const std::int64_t size : sizes) {
      memory_.push_back(arena.allocate(size, category, owner));
      std::memset(memory_.back().data(), 0, static_cast<std::size_t>(size));
    }
  }

  Transfer read(int region, std::int64_t offset, const core::TensorView& tensor) override {
    check("read", region, offset, tensor);
    if (tensor.bytes() > 0) {
      std::memcpy(tensor.raw(), memory(region) + offset, static_cast<std::size_t>(tensor.bytes()));
    }
    return {};
  }

  Transfer write(int region, std::int64_t offset, const core::ConstTensorView& tensor) override {
    check("write", region, offset, tensor);
    if (tensor.bytes() > 0) {
      std::memcpy(memory(region) + offset, tensor.raw(), static_cast<std::size_t>(tensor.bytes()));
    }
    return {};
  }

  std::byte* memory(int region) override {
    return static_cast<std::byte*>(memory_.at(static_cast<std::size_t>(region)).data());
  }

  std::span<const std::byte> show(int region) override {
    return {memory(region), static_cast<std::size_t>(bytes(region))};
  }

  bool use_memory(std::span<const std::span<std::byte>>) override { return false; }

 private:
  std::vector<core::Buffer> memory_;
};

}  // namespace

std::unique_ptr<Store> host_store(core::Arena& arena, std::span<const std::int64_t> sizes, core::Category category,
                                  std::string_view owner) {
  return std::make_unique<HostStore>(arena, sizes, category, owner);
}

}  // namespace braise::offload
