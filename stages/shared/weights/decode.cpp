// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/decode.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/half.h"

namespace braise::weights {
namespace {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian");

float from_e5m2(std::uint8_t byte) {
  return core::to_float(core::Float16{static_cast<std::uint16_t>(byte << 8)});
}

float from_e4m3(std::uint8_t byte) {
  const int exponent = (byte >> 3) & 15;
  const int mantissa = byte & 7;
  float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                  : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((byte & 0x7f) == 0x7f) magnitude = std::numeric_limits<float>::quiet_NaN();
  return std::copysign(magnitude, (byte & 0x80) != 0 ? -1.0f : 1.0f);
}

template <float (*kConvert)(std::uint8_t)>
const std::array<float, 256>& table() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> made{};
    for (unsigned i = 0; i < made.size(); ++i) made[i] = kConvert(static_cast<std::uint8_t>(i));
    return made;
  }();
  return values;
}

float to_odd(double value) {
  const float near = static_cast<float>(value);
  if (!std::isfinite(near) || near == value || (std::bit_cast<std::uint32_t>(near) & 1u) != 0) return near;
  return std::nextafter(
      near, value > near ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity());
}

template <class Stored, class To, class Convert>
void each(const std::byte* from, std::span<To> to, const Convert& convert) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * sizeof(Stored), sizeof(Stored));
    to[i] = convert(stored);
  }
}

template <class Stored, class T>
std::optional<Unfit> integers(const std::byte* from, std::span<T> to, bool boolean = false) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    Stored value;
    std::memcpy(&value, from + i * sizeof(Stored), sizeof(Stored));
    if (!std::in_range<T>(value) || (boolean && value > 1)) {
      const bool negative = std::cmp_less(value, 0);
      const auto bits = static_cast<std::uint64_t>(value);
      return Unfit{i, negative, negative ? 0 - bits : bits};
    }
    to[i] = static_cast<T>(value);
  }
  return std::nullopt;
}

}  // namespace

void decode_floats(Encoding encoding, const std::byte* from, std::span<float> to, Rounding rounding) {
  switch (encoding) {
    case Encoding::kF8E5m2:
      return each<std::uint8_t>(from, to, [&values = table<from_e5m2>()](std::uint8_t byte) { return values[byte]; });
    case Encoding::kF8E4m3:
      return each<std::uint8_t>(from, to, [&values = table<from_e4m3>()](std::uint8_t byte) { return values[byte]; });
    case Encoding::kF16:
      return each<core::Float16>(from, to, [](core::Float16 value) { return core::to_float(value); });
    case Encoding::kBf16:
      return each<core::Bfloat16>(from, to, [](core::Bfloat16 value) { return core::to_float(value); });
    case Encoding::kF32:
      std::memcpy(to.data(), from, to.size_bytes());
      return;
    case Encoding::kF64:
      if (rounding == Rounding::kToOdd) return each<double>(from, to, to_odd);
      return each<double>(from, to, [](double value) { return static_cast<float>(value); });
    default:
      throw core::Error("decode_floats: not of floating point");
  }
}

template <class T>
std::optional<Unfit> decode_integers(Encoding encoding, const std::byte* from, std::span<T> to) {
  switch (encoding) {
    case Encoding::kBool:
      return integers<std::uint8_t>(from, to, true);
    case Encoding::kU8:
      return integers<std::uint8_t>(from, to);
    case Encoding::kI8:
      return integers<std::int8_t>(from, to);
    case Encoding::kI16:
      return integers<std::int16_t>(from, to);
    case Encoding::kU16:
      return integers<std::uint16_t>(from, to);
    case Encoding::kI32:
      return integers<std::int32_t>(from, to);
    case Encoding::kU32:
      return integers<std::uint32_t>(from, to);
    case Encoding::kI64:
      return integers<std::int64_t>(from, to);
    case Encoding::kU64:
      return integers<std::uint64_t>(from, to);
    default:
      throw core::Error("decode_integers: not of integers");
  }
}

template std::optional<Unfit> decode_integers(Encoding, const std::byte*, std::span<std::int8_t>);
template std::optional<Unfit> decode_integers(Encoding, const std::byte*, std::span<std::int32_t>);

}  // namespace braise::weights
