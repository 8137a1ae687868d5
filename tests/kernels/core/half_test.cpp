// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/half.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

using namespace braise::core;

namespace {

/// The value of a binary16, by its definition.
double value_of(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

}  // namespace

TEST_CASE("every fp16 is read as its definition says, and comes back") {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<std::uint16_t>(bits)};
    const double expected = value_of(half.bits);
    const float read = to_float(half);
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(read));
      REQUIRE(std::isnan(to_float(to_float16(read))));
      continue;
    }
    REQUIRE(read == expected);
    REQUIRE(std::signbit(read) == std::signbit(expected));
    REQUIRE(to_float16(read) == half);
  }
}

TEST_CASE("fp32 becomes the nearest fp16, and the even one between two") {
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {
    const double low = value_of(static_cast<std::uint16_t>(bits));
    const double high = bits + 1 == 0x7c00 ? 65536.0 : value_of(static_cast<std::uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);  // exact: 12 bits
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    REQUIRE(to_float16(middle).bits == even);
    REQUIRE(to_float16(std::nextafter(middle, 0.0f)).bits == bits);
    REQUIRE(to_float16(std::nextafter(middle, 1e9f)).bits == bits + 1);
    REQUIRE(to_float16(-middle).bits == (even | 0x8000u));
  }
  CHECK(to_float16(1e30f).bits == 0x7c00);
  CHECK(to_float16(-std::numeric_limits<float>::infinity()).bits == 0xfc00);
  CHECK(to_float16(1e-30f).bits == 0);
}

TEST_CASE("fp32 becomes the nearest bf16, and the even one between two") {
  for (unsigned bits = 0; bits < 0x7f80; ++bits) {
    const std::uint32_t word = bits << 16;
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    REQUIRE(to_bfloat16(std::bit_cast<float>(word)).bits == bits);
    REQUIRE(to_bfloat16(std::bit_cast<float>(word | 0x7fffu)).bits == bits);
    REQUIRE(to_bfloat16(std::bit_cast<float>(word | 0x8000u)).bits == even);
    REQUIRE(to_bfloat16(std::bit_cast<float>(word | 0x8001u)).bits == bits + 1);
    REQUIRE(to_bfloat16(std::bit_cast<float>(word | 0x80008000u)).bits == (even | 0x8000u));
    REQUIRE(std::bit_cast<std::uint32_t>(to_float(Bfloat16{static_cast<std::uint16_t>(bits)})) == word);
  }
  // A NaN whose payload lies in the low half only must not become an infinity.
  CHECK(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
  CHECK(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0xffffffffu)))));
}
