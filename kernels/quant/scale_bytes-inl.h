// SPDX-License-Identifier: Apache-2.0
// Small integers times a scale, for the CPU implementations. Included once for each target, in Highway's way.
#if defined(BRAISE_KERNELS_QUANT_SCALE_BYTES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BRAISE_KERNELS_QUANT_SCALE_BYTES_INL_H_
#undef BRAISE_KERNELS_QUANT_SCALE_BYTES_INL_H_
#else
#define BRAISE_KERNELS_QUANT_SCALE_BYTES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/core/vector_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::quant::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// to[i] = q[i] * scale for i < count.
template <class T>
HWY_INLINE void scale_bytes(T* to, const std::int8_t* q, std::size_t count, float scale) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> word;
  const hn::Rebind<std::int8_t, decltype(d)> byte;
  const std::size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  const auto scaled = [&](auto bytes) { return hn::Mul(hn::ConvertTo(d, hn::PromoteTo(word, bytes)), factor); };
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    core::HWY_NAMESPACE::store_float(scaled(hn::LoadU(byte, q + i)), d, to + i);
  }
  if (i < count) {
    HWY_ALIGN std::int8_t part[hn::MaxLanes(d)] = {};
    std::memcpy(part, q + i, count - i);
    core::HWY_NAMESPACE::store_float_part(scaled(hn::LoadU(byte, part)), d, to + i, count - i);
  }
}

}  // namespace braise::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once for each target
