// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace braise::core {

/// The type of a tensor's elements. Arithmetic is done in fp32 unless an operation says otherwise: fp16, and bf16 where
/// the processor lacks it, are storage.
enum class Dtype : std::uint8_t {
  kFloat32,
  kBfloat16,
  kFloat16,
  kInt8,
  kInt4,  ///< two's complement, two to a byte along the last dimension, the even element in the low nibble
  kInt32,
};

/// "fp32", "bf16", "fp16", "int8", "int4", "int32": the names recipes use.
std::string_view name(Dtype dtype);

/// The dtype of that name, if there is one.
std::optional<Dtype> dtype_named(std::string_view name);

/// Bits of one element.
constexpr int bits(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
    case Dtype::kInt32:
      return 32;
    case Dtype::kBfloat16:
    case Dtype::kFloat16:
      return 16;
    case Dtype::kInt8:
      return 8;
    case Dtype::kInt4:
      return 4;
  }
  return 0;
}

/// Whether it is a floating-point type.
constexpr bool is_float(Dtype dtype) {
  return dtype == Dtype::kFloat32 || dtype == Dtype::kBfloat16 || dtype == Dtype::kFloat16;
}

struct Bfloat16;
struct Float16;

/// The Dtype of a C++ element type (`dtype_of<float>`). int4 has none: its elements have no address.
template <class T>
inline constexpr Dtype dtype_of = T::kDtype;
template <>
inline constexpr Dtype dtype_of<float> = Dtype::kFloat32;
template <>
inline constexpr Dtype dtype_of<std::int8_t> = Dtype::kInt8;
template <>
inline constexpr Dtype dtype_of<std::int32_t> = Dtype::kInt32;

}  // namespace braise::core
