// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant/ggml_blocks_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/parallel.h"
#include "kernels/core/vector_float-inl.h"
#include "kernels/quant/ggml_blocks.h"
#include "kernels/quant/ggml_blocks_cpu.h"
#include "kernels/quant/scale_bytes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::quant::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

HWY_INLINE float half_at(const std::uint8_t* from) {
  return core::to_float(
      core::Float16{static_cast<std::uint16_t>(static_cast<unsigned>(from[0]) | static_cast<unsigned>(from[1]) << 8)});
}

/// to[i] = nibble i of a block, made from its integer by `value`.
template <class T, class Value>
HWY_INLINE void nibbles(T* to, const std::uint8_t* from, const Value& value) {
  const hn::CappedTag<float, kGgmlBlock / 2> d;
  const hn::RebindToSigned<decltype(d)> word;
  const hn::Rebind<std::uint8_t, decltype(d)> byte;
  for (std::size_t i = 0; i < kGgmlBlock / 2; i += hn::Lanes(d)) {
    const auto pair = hn::PromoteTo(word, hn::LoadU(byte, from + i));
    vf::store_float(value(d, hn::And(pair, hn::Set(word, 15))), d, to + i);
    vf::store_float(value(d, hn::ShiftRight<4>(pair)), d, to + kGgmlBlock / 2 + i);
  }
}

struct Q8_0 {
  static constexpr std::int64_t kBytes = kQ8_0Bytes;
  template <class T>
  static void block(T* to, const std::uint8_t* from) {
    quant::HWY_NAMESPACE::scale_bytes(to, reinterpret_cast<const std::int8_t*>(from + 2), kGgmlBlock, half_at(from));
  }
};

struct Q4_0 {
  static constexpr std::int64_t kBytes = kQ4_0Bytes;
  template <class T>
  static void block(T* to, const std::uint8_t* from) {
    const float scale = half_at(from);
    nibbles(to, from + 2, [&](auto d, auto q) {
      const hn::RebindToSigned<decltype(d)> word;
      return hn::Mul(hn::ConvertTo(d, hn::Sub(q, hn::Set(word, 8))), hn::Set(d, scale));
    });
  }
};

struct Q4_1 {
  static constexpr std::int64_t kBytes = kQ4_1Bytes;
  template <class T>
  static void block(T* to, const std::uint8_t* from) {
    const float scale = half_at(from);
    const float minimum = half_at(from + 2);
    nibbles(to, from + 4, [&](auto d, auto q) {
      return hn::Add(hn::Mul(hn::ConvertTo(d, q), hn::Set(d, scale)), hn::Set(d, minimum));
    });
  }
};

template <class Format, class T>
void blocks_to(void* out, const std::uint8_t* blocks, std::int64_t count) {
  T* const to = static_cast<T*>(out);
  for (std::int64_t i = 0; i < count; ++i) Format::block(to + i * kGgmlBlock, blocks + i * Format::kBytes);
}

template <class Format>
void blocks_to_dtype(void* out, core::Dtype dtype, const std::uint8_t* blocks, std::int64_t count) {
  switch (dtype) {
    case core::Dtype::kBfloat16:
      return blocks_to<Format, core::Bfloat16>(out, blocks, count);
    case core::Dtype::kFloat16:
      return blocks_to<Format, core::Float16>(out, blocks, count);
    default:
      return blocks_to<Format, float>(out, blocks, count);
  }
}

void q8_0(void* out, core::Dtype dtype, const std::uint8_t* blocks, std::int64_t count) {
  blocks_to_dtype<Q8_0>(out, dtype, blocks, count);
}

void q4_0(void* out, core::Dtype dtype, const std::uint8_t* blocks, std::int64_t count) {
  blocks_to_dtype<Q4_0>(out, dtype, blocks, count);
}

void q4_1(void* out, core::Dtype dtype, const std::uint8_t* blocks, std::int64_t count) {
  blocks_to_dtype<Q4_1>(out, dtype, blocks, count);
}

}  // namespace braise::quant::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::quant::cpu {
namespace {

HWY_EXPORT(q8_0);
HWY_EXPORT(q4_0);
HWY_EXPORT(q4_1);

/// Blocks of a piece: enough to make the work of handing it out small.
constexpr std::int64_t kPiece = 512;

/// Calls work(out, blocks, count) for pieces of rows.
template <class Work>
void for_pieces(const core::TensorView& out, const core::ConstTensorView& blocks, std::int64_t block_bytes,
                const Work& work) {
  const std::int64_t count = out.extent(1) / kGgmlBlock;
  const std::int64_t pieces = (count + kPiece - 1) / kPiece;
  core::parallel_for(out.extent(0) * pieces, [&](std::int64_t piece) {
    const std::int64_t row = piece / pieces;
    const std::int64_t first = piece % pieces * kPiece;
    const core::TensorView to = out.slice(0, row, row + 1).slice(1, first * kGgmlBlock, first * kGgmlBlock);
    const core::ConstTensorView from = blocks.slice(0, row, row + 1).slice(1, first * block_bytes, first * block_bytes);
    work(to.raw(), static_cast<const std::uint8_t*>(from.raw()), std::min(kPiece, count - first));
  });
}

}  // namespace

void dequantize_q8_0(const core::TensorView& out, const core::ConstTensorView& blocks) {
  for_pieces(out, blocks, kQ8_0Bytes, [&](void* to, const std::uint8_t* from, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(q8_0)(to, out.dtype(), from, count);
  });
}

void dequantize_q4_0(const core::TensorView& out, const core::ConstTensorView& blocks) {
  for_pieces(out, blocks, kQ4_0Bytes, [&](void* to, const std::uint8_t* from, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(q4_0)(to, out.dtype(), from, count);
  });
}

void dequantize_q4_1(const core::TensorView& out, const core::ConstTensorView& blocks) {
  for_pieces(out, blocks, kQ4_1Bytes, [&](void* to, const std::uint8_t* from, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(q4_1)(to, out.dtype(), from, count);
  });
}

}  // namespace braise::quant::cpu
#endif
