// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention_cpu.h"
#include "kernels/core/arena.h"
#include "kernels/core/soft_cap_cpu.h"
#include "kernels/linear/tile_product.h"

/// What the two passes of attention share.
namespace braise::attention::cpu {

namespace lc = linear::cpu;

/// One head of one sequence of q, k, v ...: [positions, D].
inline core::ConstTensorView head_of(const core::ConstTensorView& tensor, std::int64_t sequence, std::int64_t head) {
  return tensor.select(0, sequence).select(1, head);
}
inline core::TensorView head_of(const core::TensorView& tensor, std::int64_t sequence, std::int64_t head) {
  return tensor.select(0, sequence).select(1, head);
}

/// The first key that the query at a position sees.
inline std::int64_t first_key(const Mask& mask, std::int64_t sequence, std::int64_t position) {
  const std::int64_t in_window = position < mask.window ? 0 : position - mask.window + 1;
  if (!mask.document_starts) return in_window;
  const std::int32_t start = mask.document_starts.select(0, sequence).data<std::int32_t>()[position];
  return std::max<std::int64_t>(in_window, start);
}

/// Bends a row of scores q k, which stay without the scale.
inline void cap_scores(float* scores, std::int64_t count, float scale, float cap) {
  if (cap > 0) core::cpu::soft_cap_row(scores, count, scale / cap, cap / scale);
}

/// Memory handed out piece by piece, each on a cache line. First run with null memory to learn the size.
class Pieces {
 public:
  explicit Pieces(std::byte* memory) : memory_(memory) {}
  template <class T>
  T* take(std::int64_t elements) {
    constexpr std::int64_t kCacheLine = 64;
    std::byte* const piece = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += lc::rounded_up(elements * static_cast<std::int64_t>(sizeof(T)), kCacheLine);
    return reinterpret_cast<T*>(piece);
  }
  std::byte* bytes_of(lc::Multiplicand type, std::int64_t elements) {
    return take<std::byte>(elements * lc::bytes_of(type));
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::int64_t bytes_ = 0;
};

/// The factor of one weight: 0 if it is dropped.
class Keep {
 public:
  Keep(const Dropout& dropout, std::int64_t sequence, std::int64_t head, std::int64_t positions)
      : stream_(dropout.rate > 0 ? &dropout.streams[static_cast<std::size_t>(sequence)] : nullptr),
        threshold_(static_cast<std::uint64_t>(std::llround(dropout.rate * 0x1p32))),
        factor_(static_cast<float>(1 / (1 - dropout.rate))),
        head_(dropout.first_head + head),
        positions_(positions) {}
  explicit operator bool() const { return stream_ != nullptr; }
  float operator()(std::int64_t query, std::int64_t key) const {
    const auto element = static_cast<std::uint64_t>((head_ * positions_ + query) * positions_ + key);
    return stream_->word(element) >= threshold_ ? factor_ : 0.0f;
  }

 private:
  const core::RandomStream* stream_;
  std::uint64_t threshold_;
  float factor_;
  std::int64_t head_;
  std::int64_t positions_;
};

}  // namespace braise::attention::cpu
