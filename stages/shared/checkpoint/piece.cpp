// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "kernels/core/reduce.h"
#include "stages/shared/checkpoint/piece.h"

namespace braise::checkpoint {

Range share_of(std::int64_t elements, int rank, int ranks) {
  const std::int64_t blocks = core::reduction_blocks(elements);
  const auto cut = [&](std::int64_t part) {
    return std::min(elements, blocks / ranks * part * core::kReductionBlock +
                                  std::min(part, blocks % ranks) * core::kReductionBlock);
  };
  return {cut(rank), cut(rank + 1)};
}

Content Content::slice(std::int64_t begin, std::int64_t end) const {
  if (!read_) return memory_.reshaped(core::Shape{elements_}).slice(0, begin, end);
  Content part(dtype_, end - begin, read_);
  part.begin_ = begin_ + begin * core::bits(dtype_) / 8;
  return part;
}

std::span<const std::byte> Content::look_at(std::int64_t offset, std::int64_t count,
                                            std::vector<std::byte>& buffer) const {
  if (!read_) return {static_cast<const std::byte*>(memory_.raw()) + offset, static_cast<std::size_t>(count)};
  buffer.resize(static_cast<std::size_t>(count));
  read_(begin_ + offset, buffer);
  return buffer;
}

void Content::read(std::int64_t offset, std::span<std::byte> to) const {
  if (read_) return read_(begin_ + offset, to);
  if (!to.empty()) std::memcpy(to.data(), static_cast<const std::byte*>(memory_.raw()) + offset, to.size());
}

}  // namespace braise::checkpoint
