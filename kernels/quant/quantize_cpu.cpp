// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant/quantize_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "kernels/core/parallel.h"
#include "kernels/core/vector_float-inl.h"
#include "kernels/quant/quantize_cpu.h"
#include "kernels/quant/scale_bytes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::quant::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

/// int4 elements unpacked at a time; even, so that each time starts on a byte.
constexpr std::int64_t kUnpacked = 256;

/// The largest |x|; NaN if one of them is infinite or NaN. Compared as integers, which orders NaN too.
template <class T>
HWY_INLINE float largest_magnitude(const T* x, std::size_t count) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> word;
  const std::size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(word, 0x7fffffff);
  auto most = hn::Zero(word);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    most = hn::Max(most, hn::And(hn::BitCast(word, vf::load_float(d, x + i)), magnitude));
  }
  if (i < count) {
    most = hn::Max(most, hn::And(hn::BitCast(word, vf::load_float_part(d, x + i, count - i)), magnitude));
  }
  const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(word, most));
  return bits < 0x7f800000 ? std::bit_cast<float>(bits) : std::numeric_limits<float>::quiet_NaN();
}

/// q[i] = round(x[i] / scale) within [-limit, limit]; 0 for a scale that is 0 or NaN.
template <class T>
HWY_INLINE void divide(std::int8_t* q, const T* x, std::size_t count, float scale, float limit) {
  if (!(scale > 0.0f)) {
    std::memset(q, 0, count);
    return;
  }
  const hn::ScalableTag<float> d;
  const hn::Rebind<std::int8_t, decltype(d)> byte;
  const std::size_t lanes = hn::Lanes(d);
  const auto divisor = hn::Set(d, scale);
  const auto most = hn::Set(d, limit);
  const auto least = hn::Set(d, -limit);
  const auto rounded = [&](auto v) {
    return hn::DemoteTo(byte, hn::NearestInt(hn::Min(hn::Max(hn::Div(v, divisor), least), most)));
  };
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(rounded(vf::load_float(d, x + i)), byte, q + i);
  if (i < count) {
    HWY_ALIGN std::int8_t part[hn::MaxLanes(d)];
    hn::StoreU(rounded(vf::load_float_part(d, x + i, count - i)), byte, part);
    std::memcpy(q + i, part, count - i);
  }
}

/// Two's complement nibbles, the even element in the low one.
HWY_INLINE void pack(std::uint8_t* to, const std::int8_t* from, std::size_t count) {
  const hn::ScalableTag<std::uint16_t> d;
  const hn::Rebind<std::uint8_t, decltype(d)> byte;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const hn::Repartition<std::uint8_t, decltype(d)> bytes;
    const auto pair = hn::BitCast(d, hn::LoadU(bytes, reinterpret_cast<const std::uint8_t*>(from) + i));
    const auto low = hn::And(pair, hn::Set(d, 0x0fu));
    const auto high = hn::And(hn::ShiftRight<4>(pair), hn::Set(d, 0xf0u));
    hn::StoreU(hn::TruncateTo(byte, hn::Or(low, high)), byte, to + i / 2);
  }
  for (; i < count; i += 2) {
    const int high = i + 1 < count ? from[i + 1] : 0;
    to[i / 2] = static_cast<std::uint8_t>((from[i] & 15) | (high & 15) << 4);
  }
}

HWY_INLINE void unpack(std::int8_t* to, const std::uint8_t* from, std::size_t count) {
  const hn::ScalableTag<std::uint16_t> d;
  const hn::Rebind<std::uint8_t, decltype(d)> byte;
  const hn::Repartition<std::int8_t, decltype(d)> bytes;
  const std::size_t lanes = hn::Lanes(d);
  const auto sign = hn::Set(bytes, 8);
  std::size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto pair = hn::PromoteTo(d, hn::LoadU(byte, from + i / 2));
    const auto low = hn::And(pair, hn::Set(d, 0x0fu));
    const auto high = hn::ShiftLeft<4>(hn::And(pair, hn::Set(d, 0xf0u)));
    const auto nibbles = hn::BitCast(bytes, hn::Or(low, high));
    hn::StoreU(hn::Sub(hn::Xor(nibbles, sign), sign), bytes, to + i);
  }
  for (; i < count; ++i) {
    const int nibble = i % 2 == 0 ? from[i / 2] & 15 : from[i / 2] >> 4;
    to[i] = static_cast<std::int8_t>((nibble ^ 8) - 8);
  }
}

/// Calls work(begin, end, group index) for each part of a group in columns [begin, end).
template <class Work>
HWY_INLINE void for_groups(std::int64_t begin, std::int64_t end, std::int64_t group, const Work& work) {
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t index = at / group;
    const std::int64_t stop = end - index * group > group ? (index + 1) * group : end;
    work(at, stop, index);
    at = stop;
  }
}

template <class T>
void quantize_typed(const QuantizePiece& piece) {
  const T* const x = static_cast<const T*>(piece.x);
  const float limit = piece.packed ? 7.0f : 127.0f;
  for_groups(piece.begin, piece.end, piece.group, [&](std::int64_t begin, std::int64_t end, std::int64_t index) {
    piece.scales[index] = largest_magnitude(x + begin, static_cast<std::size_t>(end - begin)) / limit;
  });
  const auto quantize = [&](std::int8_t* q, std::int64_t first, std::int64_t last) {
    for_groups(first, last, piece.group, [&](std::int64_t begin, std::int64_t end, std::int64_t index) {
      divide(q + (begin - first), x + begin, static_cast<std::size_t>(end - begin), piece.scales[index], limit);
    });
  };
  if (!piece.packed) {
    quantize(static_cast<std::int8_t*>(piece.q) + piece.begin, piece.begin, piece.end);
    return;
  }
  HWY_ALIGN std::int8_t unpacked[kUnpacked];
  for (std::int64_t at = piece.begin; at < piece.end; at += kUnpacked) {
    const std::int64_t stop = std::min(at + kUnpacked, piece.end);
    quantize(unpacked, at, stop);
    pack(static_cast<std::uint8_t*>(piece.q) + at / 2, unpacked, static_cast<std::size_t>(stop - at));
  }
}

void quantize_piece(const QuantizePiece& piece) {
  switch (piece.x_dtype) {
    case core::Dtype::kBfloat16:
      return quantize_typed<core::Bfloat16>(piece);
    case core::Dtype::kFloat16:
      return quantize_typed<core::Float16>(piece);
    default:
      return quantize_typed<float>(piece);
  }
}

template <class T>
void dequantize_typed(const DequantizePiece& piece) {
  T* const out = static_cast<T*>(piece.out);
  const auto dequantize = [&](const std::int8_t* q, std::int64_t first, std::int64_t last) {
    for_groups(first, last, piece.group, [&](std::int64_t begin, std::int64_t end, std::int64_t index) {
      quant::HWY_NAMESPACE::scale_bytes(out + begin, q + (begin - first), static_cast<std::size_t>(end - begin),
                                        piece.scales[index]);
    });
  };
  if (!piece.packed) {
    dequantize(static_cast<const std::int8_t*>(piece.q) + piece.begin, piece.begin, piece.end);
    return;
  }
  HWY_ALIGN std::int8_t unpacked[kUnpacked];
  for (std::int64_t at = piece.begin; at < piece.end; at += kUnpacked) {
    const std::int64_t stop = std::min(at + kUnpacked, piece.end);
    unpack(unpacked, static_cast<const std::uint8_t*>(piece.q) + at / 2, static_cast<std::size_t>(stop - at));
    dequantize(unpacked, at, stop);
  }
}

void dequantize_piece(const DequantizePiece& piece) {
  switch (piece.out_dtype) {
    case core::Dtype::kBfloat16:
      return dequantize_typed<core::Bfloat16>(piece);
    case core::Dtype::kFloat16:
      return dequantize_typed<core::Float16>(piece);
    default:
      return dequantize_typed<float>(piece);
  }
}

}  // namespace braise::quant::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::quant::cpu {
namespace {

HWY_EXPORT(quantize_piece);
HWY_EXPORT(dequantize_piece);

/// Elements of a piece, at least: enough to make the work of handing it out small.
constexpr std::int64_t kPiece = 16384;

/// A row of a tensor of rows x C, whatever its dtype.
const void* row_of(const core::ConstTensorView& tensor, std::int64_t row) {
  return tensor.slice(0, row, row + 1).raw();
}

/// Calls work(row, begin, end) for pieces of whole groups that start on even columns.
template <class Work>
void for_pieces(std::int64_t rows, std::int64_t columns, std::int64_t group, const Work& work) {
  const std::int64_t groups = std::max<std::int64_t>(kPiece / std::min(group, columns), 1);
  const std::int64_t step = group >= columns ? columns : (groups + groups % 2) * group;
  const std::int64_t pieces = columns / step + (columns % step != 0);
  core::parallel_for(rows * pieces, [&](std::int64_t piece) {
    const std::int64_t begin = piece % pieces * step;
    work(piece / pieces, begin, columns - begin > step ? begin + step : columns);
  });
}

}  // namespace

void quantize_groups(const core::TensorView& q, const core::TensorView& scales, const core::ConstTensorView& x,
                     std::int64_t group) {
  for_pieces(x.extent(0), x.extent(1), group, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
    QuantizePiece piece;
    piece.x = row_of(x, row);
    piece.x_dtype = x.dtype();
    piece.q = q.slice(0, row, row + 1).raw();
    piece.packed = q.dtype() == core::Dtype::kInt4;
    piece.scales = scales.data<float>() + row * scales.stride(0);
    piece.group = group;
    piece.begin = begin;
    piece.end = end;
    HWY_DYNAMIC_DISPATCH(quantize_piece)(piece);
  });
}

void dequantize_groups(const core::TensorView& out, const core::ConstTensorView& q, const core::ConstTensorView& scales,
                       std::int64_t group) {
  for_pieces(out.extent(0), out.extent(1), group, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
    DequantizePiece piece;
    piece.out = out.slice(0, row, row + 1).raw();
    piece.out_dtype = out.dtype();
    piece.q = row_of(q, row);
    piece.packed = q.dtype() == core::Dtype::kInt4;
    piece.scales = scales.data<float>() + row * scales.stride(0);
    piece.group = group;
    piece.begin = begin;
    piece.end = end;
    HWY_DYNAMIC_DISPATCH(dequantize_piece)(piece);
  });
}

}  // namespace braise::quant::cpu
#endif
