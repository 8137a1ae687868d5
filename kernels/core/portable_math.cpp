// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/portable_math.h"

#include <cmath>
#include <limits>

namespace braise::core::portable {
namespace {

// Of each, the upper part has so few bits that its product with a whole number as large as can be is exact.
constexpr double kLn2Upper = 0x1.62e42feep-1;
constexpr double kLn2Lower = 0x1.a39ef35793c76p-33;
constexpr double kHalfPiUpper = 0x1.921fb544p+0;
constexpr double kHalfPiMiddle = 0x1.0b4611a6p-34;
constexpr double kHalfPiLower = 0x1.3198a2e037073p-69;

/// 1 + r + r^2 / 2 + ...: e^r for |r| <= ln 2 / 2.
double exponential_series(double r) {
  double sum = 1.0;
  for (int k = 14; k >= 1; --k) sum = 1.0 + sum * r / k;
  return sum;
}

/// 1 - s / (a (a + 1)) + s^2 / (a (a + 1) (a + 2) (a + 3)) ...: cos for a = 1 and sin x / x for a = 2, with s = x^2.
double alternating_series(double square, int a) {
  double sum = 1.0;
  for (int k = a + 18; k >= a; k -= 2) sum = 1.0 - sum * square / (k * (k + 1));
  return sum;
}

}  // namespace

double exp(double x) {
  if (!(x < 710.0)) return x > 0 ? std::numeric_limits<double>::infinity() : x;  // or NaN
  if (x < -750.0) return 0.0;
  const double n = std::nearbyint(x * (1.0 / 0x1.62e42fefa39efp-1));
  const double r = (x - n * kLn2Upper) - n * kLn2Lower;
  return std::ldexp(exponential_series(r), static_cast<int>(n));
}

double log(double x) {
  if (!(x > 0.0) || std::isinf(x)) return std::numeric_limits<double>::quiet_NaN();
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < 0x1.6a09e667f3bcdp-1) {  // sqrt(1/2)
    mantissa *= 2;
    --exponent;
  }
  // log m = 2 artanh((m - 1) / (m + 1)).
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  double sum = 0.0;
  for (int k = 23; k >= 3; k -= 2) sum = sum * (s * s) + 1.0 / k;
  const double rest = 2.0 * s + 2.0 * s * (s * s) * sum;
  return exponent * kLn2Upper + (exponent * kLn2Lower + rest);
}

double pow(double base, double exponent) {
  return exp(exponent * log(base));
}

SinCos sin_cos(double x) {
  const double quarters = std::nearbyint(x * 0x1.45f306dc9c883p-1);
  const double r = ((x - quarters * kHalfPiUpper) - quarters * kHalfPiMiddle) - quarters * kHalfPiLower;
  const double s = r * alternating_series(r * r, 2);
  const double c = alternating_series(r * r, 1);
  switch (static_cast<long>(quarters) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

}  // namespace braise::core::portable
