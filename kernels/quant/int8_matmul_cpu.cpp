// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quant/int8_matmul_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <cstddef>
#include <cstring>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/core/vector_float-inl.h"
#include "kernels/quant/int8_matmul_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace braise::quant::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

using Words = hn::ScalableTag<std::int32_t>;
using Floats = hn::ScalableTag<float>;

/// What is summed at a time: as many rows times vectors of columns as leave registers for the operands.
#if HWY_TARGET == HWY_AVX3
constexpr int kRowsAtOnce = 6, kVectors = 4;
#else
constexpr int kRowsAtOnce = 2, kVectors = 2;
#endif

/// sum + the dot products of four unsigned bytes of each lane of b with the signed ones of x: exact.
template <bool kVnni>
HWY_INLINE hn::Vec<Words> add_dot(hn::Vec<Words> sum, hn::Vec<Words> b, hn::Vec<Words> x) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (kVnni) {
    // As an instruction, since Highway's targets do not tell VNNI from what else a processor of its age has.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(b.raw), "v"(x.raw));
    return sum;
  }
#endif
  const Words d;
  const hn::Repartition<std::int16_t, Words> half;
  const hn::RebindToUnsigned<decltype(half)> unsigned_half;
  const auto x_bytes = hn::BitCast(half, x);
  const auto x_even = hn::ShiftRight<8>(hn::ShiftLeft<8>(x_bytes)), x_odd = hn::ShiftRight<8>(x_bytes);
  const auto b_even = hn::And(hn::BitCast(half, b), hn::Set(half, 0xff));
  const auto b_odd = hn::BitCast(half, hn::ShiftRight<8>(hn::BitCast(unsigned_half, b)));
  auto none = hn::Zero(d);  // on x86 neighbours are added, and nothing is left for a second sum
  sum = hn::ReorderWidenMulAccumulate(d, b_even, x_even, sum, none);
  return hn::ReorderWidenMulAccumulate(d, b_odd, x_odd, sum, none);
}

template <class T>
HWY_INLINE void store(const hn::Vec<Floats> value, T* to, std::int64_t columns) {
  const Floats d;
  if (columns >= static_cast<std::int64_t>(hn::Lanes(d))) {
    vf::store_float(value, d, to);
  } else if (columns > 0) {
    vf::store_float_part(value, d, to, static_cast<std::size_t>(columns));
  }
}

/// kRows rows from `first` on times kVectors vectors of columns of the panel, the first being `column`.
template <bool kVnni, int kRows, class T>
HWY_INLINE void multiply_columns(const PanelProduct& p, std::int64_t first, std::int64_t column) {
  const Words word;
  const Floats number;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(word));
  const Groups& groups = *p.groups;
  const auto* b = static_cast<const std::int32_t*>(p.panel) + column;
  const float* b_scales = static_cast<const float*>(p.panel) + kPanel * groups.all_quads() + column;
  const std::int8_t* x = p.x + first * p.x_stride;
  hn::Vec<Floats> totals[kRows][kVectors];
#pragma GCC unroll 32
  for (int i = 0; i < kRows * kVectors; ++i) totals[i / kVectors][i % kVectors] = hn::Zero(number);
  for (std::int64_t g = 0; g < groups.count; ++g) {
    hn::Vec<Words> sums[kRows][kVectors];
#pragma GCC unroll 32
    for (int i = 0; i < kRows * kVectors; ++i) sums[i / kVectors][i % kVectors] = hn::Zero(word);
    const std::int64_t quads = g + 1 < groups.count ? groups.quads : groups.last_quads;
    for (std::int64_t quad = 0; quad < quads; ++quad, b += kPanel, x += 4) {
      hn::Vec<Words> columns[kVectors];
#pragma GCC unroll 32
      for (int i = 0; i < kVectors; ++i) columns[i] = hn::LoadU(word, b + i * lanes);
#pragma GCC unroll 32
      for (int row = 0; row < kRows; ++row) {
        std::int32_t bytes;
        std::memcpy(&bytes, x + row * p.x_stride, sizeof bytes);
        const auto of_row = hn::Set(word, bytes);
#pragma GCC unroll 32
        for (int i = 0; i < kVectors; ++i) sums[row][i] = add_dot<kVnni>(sums[row][i], columns[i], of_row);
      }
    }
#pragma GCC unroll 32
    for (int row = 0; row < kRows; ++row) {
      const auto excess = hn::Set(word, p.excess[(first + row) * groups.count + g]);
      const auto scale = hn::Set(number, p.scales[(first + row) * p.scale_stride + g]);
#pragma GCC unroll 32
      for (int i = 0; i < kVectors; ++i) {
        const auto both = hn::Mul(scale, hn::LoadU(number, b_scales + i * lanes));
        const auto dot = hn::ConvertTo(number, hn::Sub(sums[row][i], excess));
        totals[row][i] = vf::fused_multiply_add(number, both, dot, totals[row][i]);
      }
    }
    b_scales += kPanel;
  }
#pragma GCC unroll 32
  for (int i = 0; i < kRows * kVectors; ++i) {
    T* const y = static_cast<T*>(p.y) + (first + i / kVectors) * p.y_stride + column + i % kVectors * lanes;
    store(totals[i / kVectors][i % kVectors], y, p.columns - column - i % kVectors * lanes);
  }
}

template <bool kVnni, int kRows>
void multiply_rows(const PanelProduct& p, std::int64_t first) {
  const auto step = static_cast<std::int64_t>(kVectors * hn::Lanes(Words()));
  for (std::int64_t column = 0; column < p.columns; column += step) {
    switch (p.y_dtype) {
      case core::Dtype::kBfloat16:
        multiply_columns<kVnni, kRows, core::Bfloat16>(p, first, column);
        break;
      case core::Dtype::kFloat16:
        multiply_columns<kVnni, kRows, core::Float16>(p, first, column);
        break;
      default:
        multiply_columns<kVnni, kRows, float>(p, first, column);
    }
  }
}

template <bool kVnni>
HWY_INLINE void multiply_any_rows(const PanelProduct& p) {
  std::int64_t row = 0;
  for (; row + kRowsAtOnce <= p.rows; row += kRowsAtOnce) multiply_rows<kVnni, kRowsAtOnce>(p, row);
#if HWY_TARGET == HWY_AVX3
  for (; row + 3 <= p.rows; row += 3) multiply_rows<kVnni, 3>(p, row);
#endif
  for (; row < p.rows; ++row) multiply_rows<kVnni, 1>(p, row);
}

void multiply_panel(const PanelProduct& p) {
  multiply_any_rows<false>(p);
}

/// On processors that have VNNI, and tiers that may use it.
void multiply_panel_vnni(const PanelProduct& p) {
  multiply_any_rows<HWY_TARGET == HWY_AVX3>(p);
}

}  // namespace braise::quant::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::quant::cpu {
namespace {

HWY_EXPORT(multiply_panel);
HWY_EXPORT(multiply_panel_vnni);

/// Rows of x that go past all panels before the next ones do: a few hundred kilobytes, so that they stay in the
/// second-level cache.
constexpr std::int64_t kRowBlock = 96;

/// Calls take(group, begin, place, count) for each group: its elements [begin, begin + count) of a row, which stand
/// from byte `place` on where they are in quads.
template <class Take>
void for_groups(const Groups& groups, const Take& take) {
  for (std::int64_t g = 0; g < groups.count; ++g) {
    const std::int64_t begin = g * groups.group;
    take(g, begin, 4 * g * groups.quads, std::min(groups.group, groups.depth - begin));
  }
}

}  // namespace

std::int64_t panel_bytes(const Groups& groups) {
  return kPanel * (4 * groups.all_quads() + 4 * groups.count);
}

std::int64_t packed_bytes(const Groups& groups, std::int64_t columns) {
  return (columns + kPanel - 1) / kPanel * panel_bytes(groups);
}

void pack(void* packed, const core::ConstTensorView& q, const core::ConstTensorView& scales, const Groups& groups) {
  const std::int64_t columns = q.extent(0), bytes = panel_bytes(groups);
  core::parallel_for((columns + kPanel - 1) / kPanel, [&](std::int64_t panel) {
    auto* const to = static_cast<std::uint8_t*>(packed) + panel * bytes;
    auto* const to_scales = reinterpret_cast<float*>(to + 4 * kPanel * groups.all_quads());
    std::memset(to, 128, static_cast<std::size_t>(4 * kPanel * groups.all_quads()));
    for (std::int64_t i = 0; i < kPanel; ++i) {
      const std::int64_t column = panel * kPanel + i;
      const bool is_there = column < columns;
      for (std::int64_t g = 0; g < groups.count; ++g) {
        to_scales[g * kPanel + i] = is_there ? scales.data<float>()[column * scales.stride(0) + g] : 0.0f;
      }
      if (!is_there) continue;
      const std::int8_t* const row = q.data<std::int8_t>() + column * q.stride(0);
      for_groups(groups, [&](std::int64_t, std::int64_t begin, std::int64_t place, std::int64_t count) {
        for (std::int64_t k = 0; k < count; ++k) {
          const std::int64_t at = place + k;
          to[(at / 4 * kPanel + i) * 4 + at % 4] = static_cast<std::uint8_t>(row[begin + k] + 128);
        }
      });
    }
  });
}

void int8_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                 const core::ConstTensorView& scales, const void* packed, const Groups& groups, bool vnni) {
  const std::int64_t rows = y.extent(0), columns = y.extent(1), bytes = panel_bytes(groups);
  const std::int64_t width = 4 * groups.all_quads();
  const auto workspace = [&](core::Dtype dtype, std::int64_t per_row) {
    return stream.arena().tensor(dtype, core::Shape{rows, per_row}, core::Category::kWorkspace, "int8_matmul");
  };
  const core::Tensor in_quads = workspace(core::Dtype::kInt8, width);
  const core::Tensor excess = workspace(core::Dtype::kInt32, groups.count);
  core::parallel_for(rows, [&](std::int64_t row) {
    const std::int8_t* const from = x.data<std::int8_t>() + row * x.stride(0);
    std::int8_t* const to = in_quads.view.data<std::int8_t>() + row * width;
    std::int32_t* const sums = excess.view.data<std::int32_t>() + row * groups.count;
    for_groups(groups, [&](std::int64_t g, std::int64_t begin, std::int64_t place, std::int64_t count) {
      std::int32_t sum = 0;
      for (std::int64_t k = 0; k < count; ++k) sum += to[place + k] = from[begin + k];
      std::memset(to + place + count, 0, static_cast<std::size_t>(-count & 3));
      sums[g] = 128 * sum;
    });
  });
  const std::int64_t panels = (columns + kPanel - 1) / kPanel;
  core::parallel_for((rows + kRowBlock - 1) / kRowBlock * panels, [&](std::int64_t task) {
    const std::int64_t row = task / panels * kRowBlock, panel = task % panels;
    PanelProduct p;
    p.x = in_quads.view.data<std::int8_t>() + row * width;
    p.x_stride = width;
    p.excess = excess.view.data<std::int32_t>() + row * groups.count;
    p.scales = scales.data<float>() + row * scales.stride(0);
    p.scale_stride = scales.stride(0);
    p.panel = static_cast<const std::byte*>(packed) + panel * bytes;
    p.groups = &groups;
    p.rows = std::min(kRowBlock, rows - row);
    p.columns = std::min(kPanel, columns - panel * kPanel);
    p.y = y.slice(0, row, row + p.rows).slice(1, panel * kPanel, panel * kPanel + p.columns).raw();
    p.y_dtype = y.dtype();
    p.y_stride = y.stride(0);
    if (vnni) {
      HWY_DYNAMIC_DISPATCH(multiply_panel_vnni)(p);
    } else {
      HWY_DYNAMIC_DISPATCH(multiply_panel)(p);
    }
  });
}

}  // namespace braise::quant::cpu
#endif
