// SPDX-License-Identifier: Apache-2.0
// The loop that the steps share. Included once for each target, in Highway's way.
#if defined(BRAISE_KERNELS_OPTIMIZER_SLICE_CPU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BRAISE_KERNELS_OPTIMIZER_SLICE_CPU_INL_H_
#undef BRAISE_KERNELS_OPTIMIZER_SLICE_CPU_INL_H_
#else
#define BRAISE_KERNELS_OPTIMIZER_SLICE_CPU_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>

#include "kernels/core/vector_float-inl.h"
#include "kernels/optimizer/slice_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace braise::optimizer::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

using Tag = hn::ScalableTag<float>;
using Vector = hn::Vec<Tag>;

HWY_INLINE Vector fma(Vector a, Vector b, Vector c) {
  return vf::fused_multiply_add(Tag(), a, b, c);
}

/// Calls `update(g, w, states)` for each vector of the range: g is the scaled gradient; w and states, an array of
/// kStates vectors, are read and then written back. `states` are the addresses of the state's first elements.
template <std::size_t kStates, class Update>
void update_range(const Slice& slice, const std::array<float*, kStates>& states, Range range, const Update& update) {
  constexpr std::int64_t kChunk = 1024;  // as fp32 it stays in L1 from the update to the copy
  const Tag d;
  constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(d));
  const Vector scale = hn::Set(d, slice.gradient_scale);
  HWY_ALIGN float converted[kChunk];
  for (std::int64_t begin = range.begin; begin < range.end; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, range.end - begin);
    const auto size = static_cast<std::size_t>(count);
    const float* gradient = converted;
    switch (slice.gradient.dtype()) {
      case core::Dtype::kBfloat16:
        vf::convert_float(converted, slice.gradient.data<core::Bfloat16>() + begin, size);
        break;
      case core::Dtype::kFloat16:
        vf::convert_float(converted, slice.gradient.data<core::Float16>() + begin, size);
        break;
      default:
        gradient = slice.gradient.data<float>() + begin;
    }
    float* const master = slice.master.data<float>() + begin;
    std::array<Vector, kStates> state;
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      Vector w = hn::LoadU(d, master + i);
      for (std::size_t s = 0; s < kStates; ++s) state[s] = hn::LoadU(d, states[s] + begin + i);
      update(hn::Mul(scale, hn::LoadU(d, gradient + i)), w, state);
      hn::StoreU(w, d, master + i);
      for (std::size_t s = 0; s < kStates; ++s) hn::StoreU(state[s], d, states[s] + begin + i);
    }
    if (i < count) {
      const auto rest = static_cast<std::size_t>(count - i);
      Vector w = vf::load_float_part(d, master + i, rest);
      for (std::size_t s = 0; s < kStates; ++s) state[s] = vf::load_float_part(d, states[s] + begin + i, rest);
      update(hn::Mul(scale, vf::load_float_part(d, gradient + i, rest)), w, state);
      vf::store_float_part(w, d, master + i, rest);
      for (std::size_t s = 0; s < kStates; ++s) vf::store_float_part(state[s], d, states[s] + begin + i, rest);
    }
    if (!slice.copy) continue;
    switch (slice.copy.dtype()) {
      case core::Dtype::kBfloat16:
        vf::convert_float(slice.copy.data<core::Bfloat16>() + begin, master, size);
        break;
      case core::Dtype::kFloat16:
        vf::convert_float(slice.copy.data<core::Float16>() + begin, master, size);
        break;
      default:
        std::copy(master, master + count, slice.copy.data<float>() + begin);
    }
  }
}

}  // namespace braise::optimizer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once for each target
