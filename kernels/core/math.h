// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

/// What a function that a GPU runs too is marked with.
#ifdef __CUDACC__
#define BRAISE_HOST_DEVICE __host__ __device__
#else
#define BRAISE_HOST_DEVICE
#endif

/// Elementary functions of fp32, written once (math_functions.inc) over a policy A that says what a float is: one
/// number (Scalar), or a vector (vector_math-inl.h, which has the same functions). Every policy rounds each operation
/// as IEEE 754 says, so all of them give the same bits on every tier; a NaN may have another payload. Errors were
/// measured over every fp32 argument (math_test.cpp, "[.every]"), in units of the last place of the exact result.
/// Coefficients: tests/golden/minimax.py.
namespace braise::core::math {

/// One fp32 number. The members are what the functions below ask of a policy.
struct Scalar {
  using Float = float;
  using Mask = bool;

  BRAISE_HOST_DEVICE static Float constant(float value) { return value; }
  BRAISE_HOST_DEVICE static Float add(Float a, Float b) { return a + b; }
  BRAISE_HOST_DEVICE static Float sub(Float a, Float b) { return a - b; }
  BRAISE_HOST_DEVICE static Float mul(Float a, Float b) { return a * b; }
  BRAISE_HOST_DEVICE static Float div(Float a, Float b) { return a / b; }
  BRAISE_HOST_DEVICE static Float sqrt(Float a) { return std::sqrt(a); }

  /// a b + c, rounded once.
  BRAISE_HOST_DEVICE static Float mul_add(Float a, Float b, Float c) { return std::fma(a, b, c); }

  /// b where either is NaN, or both are zeros.
  BRAISE_HOST_DEVICE static Float min(Float a, Float b) { return a < b ? a : b; }
  BRAISE_HOST_DEVICE static Float max(Float a, Float b) { return a > b ? a : b; }

  BRAISE_HOST_DEVICE static Mask less(Float a, Float b) { return a < b; }
  BRAISE_HOST_DEVICE static Mask equal(Float a, Float b) { return a == b; }
  BRAISE_HOST_DEVICE static Float select(Mask which, Float yes, Float no) { return which ? yes : no; }

  BRAISE_HOST_DEVICE static Float abs(Float a) { return from_bits(bits(a) & 0x7fffffffu); }
  BRAISE_HOST_DEVICE static Float negate(Float a) { return from_bits(bits(a) ^ 0x80000000u); }
  BRAISE_HOST_DEVICE static Float copy_sign(Float magnitude, Float sign) {
    return from_bits((bits(magnitude) & 0x7fffffffu) | (bits(sign) & 0x80000000u));
  }

  /// x 2^n, rounded once, for an integer n in [-160, 160] and |x| in [1/2, 2]; for a NaN n anything, NaN if x is too.
  BRAISE_HOST_DEVICE static Float scale(Float x, Float n) {
    const auto exponent = static_cast<std::int32_t>(bits(n + kRounder) - bits(kRounder));
    const std::int32_t half = exponent >> 1;
    const float first = x * from_bits((static_cast<std::uint32_t>(half) + 127u) << 23);
    return first * from_bits((static_cast<std::uint32_t>(exponent - half) + 127u) << 23);
  }

  /// The m in [sqrt(1/2), sqrt(2)) and the integer e with x = m 2^e, for a normal x > 0; anything else for others.
  BRAISE_HOST_DEVICE static Float split(Float x, Float& e) {
    const std::uint32_t distance = bits(x) - 0x3f3504f3u;  // from sqrt(1/2)
    e = static_cast<float>(static_cast<std::int32_t>(distance) >> 23);
    return from_bits(bits(x) - (distance & 0xff800000u));
  }

 private:
  static constexpr float kRounder = 0x1.8p23f;
  BRAISE_HOST_DEVICE static std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }
  BRAISE_HOST_DEVICE static float from_bits(std::uint32_t word) { return std::bit_cast<float>(word); }
};

#define BRAISE_MATH_FUNCTION BRAISE_HOST_DEVICE inline
#include "kernels/core/math_functions.inc"
#undef BRAISE_MATH_FUNCTION

}  // namespace braise::core::math
