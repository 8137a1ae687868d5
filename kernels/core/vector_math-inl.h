// SPDX-License-Identifier: Apache-2.0
// math.h over vectors. Included once for each target, in Highway's way.
#if defined(BRAISE_KERNELS_CORE_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BRAISE_KERNELS_CORE_VECTOR_MATH_INL_H_
#undef BRAISE_KERNELS_CORE_VECTOR_MATH_INL_H_
#else
#define BRAISE_KERNELS_CORE_VECTOR_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "kernels/core/vector_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// The policy of math.h that is a whole vector of fp32.
struct Vector {
  using Tag = hn::ScalableTag<float>;
  using Float = hn::Vec<Tag>;
  using Mask = hn::Mask<Tag>;

  static HWY_INLINE Float constant(float value) { return hn::Set(Tag(), value); }
  static HWY_INLINE Float add(Float a, Float b) { return hn::Add(a, b); }
  static HWY_INLINE Float sub(Float a, Float b) { return hn::Sub(a, b); }
  static HWY_INLINE Float mul(Float a, Float b) { return hn::Mul(a, b); }
  static HWY_INLINE Float div(Float a, Float b) { return hn::Div(a, b); }
  static HWY_INLINE Float sqrt(Float a) { return hn::Sqrt(a); }
  static HWY_INLINE Float mul_add(Float a, Float b, Float c) { return fused_multiply_add(Tag(), a, b, c); }
  static HWY_INLINE Float min(Float a, Float b) { return hn::Min(a, b); }
  static HWY_INLINE Float max(Float a, Float b) { return hn::Max(a, b); }
  static HWY_INLINE Mask less(Float a, Float b) { return hn::Lt(a, b); }
  static HWY_INLINE Mask equal(Float a, Float b) { return hn::Eq(a, b); }
  static HWY_INLINE Float select(Mask which, Float yes, Float no) { return hn::IfThenElse(which, yes, no); }
  static HWY_INLINE Float abs(Float a) { return hn::Abs(a); }
  static HWY_INLINE Float negate(Float a) { return hn::Neg(a); }
  static HWY_INLINE Float copy_sign(Float magnitude, Float sign) { return hn::CopySign(magnitude, sign); }

  static HWY_INLINE Float scale(Float x, Float n) {
#if HWY_TARGET <= HWY_AVX3
    return Float{_mm512_scalef_ps(x.raw, n.raw)};
#else
    const hn::RebindToSigned<Tag> whole;
    const auto rounder = constant(0x1.8p23f);
    const auto exponent = hn::Sub(hn::BitCast(whole, hn::Add(n, rounder)), hn::BitCast(whole, rounder));
    const auto half = hn::ShiftRight<1>(exponent);
    const auto power = [&](auto e) { return hn::BitCast(Tag(), hn::ShiftLeft<23>(hn::Add(e, hn::Set(whole, 127)))); };
    return hn::Mul(hn::Mul(x, power(half)), power(hn::Sub(exponent, half)));
#endif
  }

  static HWY_INLINE Float split(Float x, Float& e) {
    const hn::RebindToSigned<Tag> whole;
    const auto bits = hn::BitCast(whole, x);
    const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(whole, 0x3f3504f3)));  // of x / sqrt(1/2)
    e = hn::ConvertTo(Tag(), exponent);
    return hn::BitCast(Tag(), hn::Sub(bits, hn::ShiftLeft<23>(exponent)));
  }
};

namespace math {
#define BRAISE_MATH_FUNCTION HWY_INLINE
#include "kernels/core/math_functions.inc"
#undef BRAISE_MATH_FUNCTION
}  // namespace math

}  // namespace braise::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once for each target
