// SPDX-License-Identifier: Apache-2.0
// fp32 vectors for the CPU implementations: the storage dtypes in and out, with the bits of half.h, and a fused
// multiply-add with the same bits on every target. Included once for each target, in Highway's way.
#if defined(BRAISE_KERNELS_CORE_VECTOR_FLOAT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BRAISE_KERNELS_CORE_VECTOR_FLOAT_INL_H_
#undef BRAISE_KERNELS_CORE_VECTOR_FLOAT_INL_H_
#else
#define BRAISE_KERNELS_CORE_VECTOR_FLOAT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/core/half.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Lanes(d) elements as fp32. `d` is a tag of float.
template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const Bfloat16* from) {
  const hn::RebindToUnsigned<D> word;
  const hn::Rebind<std::uint16_t, D> half;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(word, hn::LoadU(half, &from->bits))));
}

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const Float16* from) {
  const hn::RebindToUnsigned<D> word;
  const hn::Rebind<std::uint16_t, D> half;
  const auto bits = hn::LoadU(half, &from->bits);
  const auto wide = hn::PromoteTo(word, bits);
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(word, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(wide, hn::Set(word, 0x7fffu)));
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, D> native;
  const auto finite = hn::BitCast(word, hn::PromoteTo(d, hn::BitCast(native, bits)));
#else
  const auto finite = hn::Or(hn::BitCast(word, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f))), sign);
#endif
  // The instruction would quiet a signalling NaN.
  const auto special = hn::Eq(hn::And(magnitude, hn::Set(word, 0x0f800000u)), hn::Set(word, 0x0f800000u));
  const auto widened = hn::Or(hn::Or(sign, hn::Set(word, 0x7f800000u)), magnitude);
  return hn::BitCast(d, hn::IfThenElse(special, widened, finite));
}

/// Stores Lanes(d) elements, rounded to nearest, ties to even.
template <class D>
HWY_INLINE void store_float(hn::Vec<D> value, D d, float* to) {
  hn::StoreU(value, d, to);
}

template <class D>
HWY_INLINE void store_float(hn::Vec<D> value, D, Bfloat16* to) {
  const hn::RebindToUnsigned<D> word;
  const hn::Rebind<std::uint16_t, D> half;
  const auto bits = hn::BitCast(word, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto even = hn::And(upper, hn::Set(word, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(even, hn::Set(word, 0x7fffu))));
  const auto quiet = hn::Or(upper, hn::Set(word, 0x40u));
  const auto nan = hn::RebindMask(word, hn::IsNaN(value));
  hn::StoreU(hn::TruncateTo(half, hn::IfThenElse(nan, quiet, rounded)), half, &to->bits);
}

/// The same for an operand of a bf16 product, on tiers that have these (kAvx512Bf16): by their own instruction, which
/// differs in that subnormal numbers become 0, as the product takes them.
template <class D>
HWY_INLINE void store_operand(hn::Vec<D> value, [[maybe_unused]] D d, Bfloat16* to) {
#if HWY_TARGET <= HWY_AVX3
  __m256i rounded;
  __asm__("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(value.raw));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
#else
  store_float(value, d, to);
#endif
}
template <class D>
HWY_INLINE void store_operand(hn::Vec<D> value, D d, float* to) {
  store_float(value, d, to);
}

template <class D>
HWY_INLINE void store_float(hn::Vec<D> value, [[maybe_unused]] D d, Float16* to) {
  const hn::Rebind<std::uint16_t, D> half;
#if HWY_TARGET <= HWY_AVX2
  const hn::Rebind<hwy::float16_t, D> native;
  hn::StoreU(hn::BitCast(half, hn::DemoteTo(native, value)), half, &to->bits);
#else
  const hn::RebindToUnsigned<D> word;
  const hn::RebindToSigned<D> whole;  // magnitudes fit, and signed comparisons are the ones there are
  const auto bits = hn::BitCast(word, value);
  const auto magnitude = hn::And(bits, hn::Set(word, 0x7fffffffu));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(word, 0x8000u));
  const auto order = hn::BitCast(whole, magnitude);
  const auto mantissa = hn::ShiftRight<13>(magnitude);
  const auto even = hn::And(mantissa, hn::Set(word, 1u));
  const auto normal = hn::ShiftRight<13>(hn::Add(magnitude, hn::Sub(even, hn::Set(word, 0x38000000u - 0xfffu))));
  const auto subnormal =
      hn::Sub(hn::BitCast(word, hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f))), hn::Set(word, 0x3f000000u));
  const auto nan = hn::Or(hn::And(mantissa, hn::Set(word, 0x3ffu)), hn::Set(word, 0x7e00u));
  const auto below = [&](std::int32_t limit) { return hn::RebindMask(word, hn::Lt(order, hn::Set(whole, limit))); };
  auto result = hn::IfThenElse(below(0x38800000), subnormal, normal);
  result = hn::IfThenElse(below(0x477ff000), result, hn::Set(word, 0x7c00u));
  result = hn::IfThenElse(below(0x7f800001), result, nan);
  hn::StoreU(hn::TruncateTo(half, hn::Or(result, sign)), half, &to->bits);
#endif
}

/// The first `count` lanes, fewer than all, of memory that ends there; the other lanes are 0.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_float_part(D d, const T* from, std::size_t count) {
  HWY_ALIGN T lanes[hn::MaxLanes(d)] = {};
  std::memcpy(lanes, from, count * sizeof(T));
  return load_float(d, lanes);
}

template <class D, class T>
HWY_INLINE void store_float_part(hn::Vec<D> value, D d, T* to, std::size_t count) {
  HWY_ALIGN T lanes[hn::MaxLanes(d)];
  store_float(value, d, lanes);
  std::memcpy(to, lanes, count * sizeof(T));
}

/// to[i] = from[i], converted, for i in [0, count).
template <class To, class From>
HWY_INLINE void convert_float(To* to, const From* from, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) store_float(load_float(d, from + i), d, to + i);
  if (i < count) store_float_part(load_float_part(d, from + i, count - i), d, to + i, count - i);
}

#if HWY_TARGET > HWY_AVX2
/// One half of fused_multiply_add where there is no instruction. The product is exact in fp64; the sum is rounded to
/// odd, so that rounding it again to fp32 gives what one rounding would.
template <class D>
HWY_INLINE hn::Vec<D> sum_of_product_to_odd(D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c) {
  const hn::RebindToUnsigned<D> word;
  const auto product = hn::Mul(a, b);
  const auto sum = hn::Add(product, c);
  const auto part = hn::Sub(sum, product);
  const auto error = hn::Add(hn::Sub(product, hn::Sub(sum, part)), hn::Sub(c, part));
  const auto bits = hn::BitCast(word, sum);
  const auto one = hn::Set(word, std::uint64_t{1});
  const auto away = hn::ShiftRight<63>(hn::Xor(bits, hn::BitCast(word, error)));  // 1: the error points to zero
  const auto step = hn::Sub(one, hn::Add(away, away));
  const auto even = hn::Sub(hn::And(bits, one), one);  // all ones for an even last bit
  const auto zero = hn::Zero(d);
  const auto inexact = hn::Or(hn::Lt(error, zero), hn::Gt(error, zero));  // false for the NaN of an infinite sum
  const auto change = hn::And(hn::And(step, even), hn::BitCast(word, hn::VecFromMask(d, inexact)));
  return hn::BitCast(d, hn::Add(bits, change));
}
#endif

/// a * b + c with one rounding, on every target.
template <class D>
HWY_INLINE hn::Vec<D> fused_multiply_add([[maybe_unused]] D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c) {
#if HWY_TARGET <= HWY_AVX2
  return hn::MulAdd(a, b, c);
#else
  const hn::Half<D> half;
  const hn::Rebind<double, hn::Half<D> > wide;
  const auto promoted = [&](auto low, auto v) {
    if constexpr (decltype(low)::value) {
      return hn::PromoteTo(wide, hn::LowerHalf(half, v));
    } else {
      return hn::PromoteTo(wide, hn::UpperHalf(half, v));
    }
  };
  const auto sum = [&](auto low) {
    return hn::DemoteTo(half, sum_of_product_to_odd(wide, promoted(low, a), promoted(low, b), promoted(low, c)));
  };
  return hn::Combine(d, sum(std::false_type{}), sum(std::true_type{}));
#endif
}

}  // namespace braise::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once for each target
