// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/portable_math.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/core/random.h"

using namespace braise::core;

namespace {

/// Uniform in [low, high), with 53 bits.
double between(double low, double high, std::uint64_t i) {
  const RandomStream random(3, Purpose::kData);
  const std::uint64_t word = std::uint64_t{random.word(2 * i)} << 21 ^ random.word(2 * i + 1);
  return low + (high - low) * static_cast<double>(word) * 0x1p-53;
}

double relative_error(double actual, long double exact) {
  return static_cast<double>(std::abs((actual - exact) / exact));
}

}  // namespace

TEST_CASE("the portable functions agree with long double") {
  double exp_error = 0;
  double log_error = 0;
  double pow_error = 0;
  double sin_error = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double x = between(-700, 700, i);
    exp_error = std::fmax(exp_error, relative_error(portable::exp(x), std::exp(static_cast<long double>(x))));
    const double y =
        i % 2 == 0 ? between(0.5, 2, i) : std::ldexp(between(0.5, 1, i), static_cast<int>(i % 2000) - 1000);
    log_error = std::fmax(log_error, relative_error(portable::log(y), std::log(static_cast<long double>(y))));
    const double base = between(1, 1e7, i);
    const double power = between(-1, 1, i + 1);
    const long double exact = std::pow(static_cast<long double>(base), static_cast<long double>(power));
    pow_error = std::fmax(pow_error,
                          relative_error(portable::pow(base, power), exact) / (1 + std::abs(power * std::log(base))));
    const double angle = between(-0x1p20, 0x1p20, i);
    const auto [sin, cos] = portable::sin_cos(angle);
    const long double wide = angle;
    sin_error = std::fmax(sin_error, static_cast<double>(std::abs(sin - std::sin(wide))));
    sin_error = std::fmax(sin_error, static_cast<double>(std::abs(cos - std::cos(wide))));
  }
  CHECK(exp_error < 0x1p-50);
  CHECK(log_error < 0x1p-50);
  CHECK(pow_error < 0x1p-50);
  CHECK(sin_error < 0x1p-50);
}

TEST_CASE("the portable functions have the same bits everywhere") {
  // As g++ and clang++ made them, for x86-64-v2 and v3.
  CHECK(portable::exp(1.0) == 0x1.5bf0a8b14576ap+1);
  CHECK(portable::log(10.0) == 0x1.26bb1bbb55516p+1);
  CHECK(portable::pow(500000.0, -0.375) == 0x1.ddee9c8c0aceep-8);
  CHECK(portable::sin_cos(1e5).sin == 0x1.24daa9c527e96p-5);
  CHECK(portable::sin_cos(1e5).cos == -0x1.ffac3841b3da7p-1);
  CHECK(portable::sin_cos(0.0).sin == 0);
  CHECK(portable::sin_cos(0.0).cos == 1);
}

TEST_CASE("the portable functions have limits at the ends of their range") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  CHECK(portable::exp(-kInfinity) == 0);
  CHECK(portable::exp(kInfinity) == kInfinity);
  CHECK(portable::exp(-745.0) == 0x1p-1074);
  CHECK(std::isnan(portable::exp(std::nan(""))));
  CHECK(std::isnan(portable::log(0)));
  CHECK(std::isnan(portable::log(-1)));
  CHECK(portable::log(1) == 0);
  CHECK(portable::log(0x1p-1074) == Approx(-744.4400719213812).epsilon(1e-15));
}
