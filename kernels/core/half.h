// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/core/dtype.h"

namespace braise::core {

/// bfloat16: the upper half of an fp32 (8 bits of exponent, 7 of mantissa).
struct Bfloat16 {
  static constexpr Dtype kDtype = Dtype::kBfloat16;
  std::uint16_t bits = 0;
  bool operator==(const Bfloat16&) const = default;  ///< of bits, so NaN equals itself and -0 is not 0
};

/// IEEE 754 binary16 (5 bits of exponent, 10 of mantissa).
struct Float16 {
  static constexpr Dtype kDtype = Dtype::kFloat16;
  std::uint16_t bits = 0;
  bool operator==(const Float16&) const = default;  ///< of bits
};

constexpr float to_float(float value) {
  return value;
}

constexpr float to_float(Bfloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

constexpr float to_float(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN keep their payload
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  // The exponent is re-biased by a multiplication, which also normalises subnormals; exact.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

/// Rounds to nearest, ties to even; NaN stays NaN (quiet), and what is too large becomes infinity.
constexpr Bfloat16 to_bfloat16(float value) {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
  if ((word & 0x7fffffffu) > 0x7f800000u) return Bfloat16{static_cast<std::uint16_t>((word >> 16) | 0x40u)};
  return Bfloat16{static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
}

/// Rounds to nearest, ties to even; NaN stays NaN (quiet), and what is too large becomes infinity.
constexpr Float16 to_float16(float value) {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (word >> 16) & 0x8000u;
  const std::uint32_t magnitude = word & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return Float16{static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu))};
  }
  if (magnitude >= 0x477ff000u) return Float16{static_cast<std::uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal; adding 0.5 leaves the rounded mantissa in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return Float16{static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u))};
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return Float16{static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

/// Conversion chosen by type: `from_float<Bfloat16>(x)`.
template <class T>
constexpr T from_float(float value);
template <>
constexpr float from_float<float>(float value) {
  return value;
}
template <>
constexpr Bfloat16 from_float<Bfloat16>(float value) {
  return to_bfloat16(value);
}
template <>
constexpr Float16 from_float<Float16>(float value) {
  return to_float16(value);
}

}  // namespace braise::core
