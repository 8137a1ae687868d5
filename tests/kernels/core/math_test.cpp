// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/math.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/core/parallel.h"
#include "kernels/core/tier.h"
#include "tests/kernels/core/math_arrays.h"

namespace braise::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  MathFunction function;
  const char* name;
  double most_ulp;  ///< as the header says
  double (*exact)(double);
  float from;  ///< smallest magnitude that is interesting: tests are dense from here ...
  float to;    ///< ... to here
};

double exact_normal_cdf(double x) {
  return 0.5 * std::erfc(-x / std::numbers::sqrt2);
}

/// sin(2 pi (x + quarters / 4)), reduced to |x| <= 1/8 before the multiplication, exactly.
double turned(double x, int quarters) {
  const double nearest = std::nearbyint(4 * x);
  const double angle = 2 * std::numbers::pi * (x - nearest / 4);
  quarters += static_cast<int>(std::fmod(nearest, 4.0)) + 4;
  const double value = quarters % 2 == 0 ? std::sin(angle) : std::cos(angle);
  return quarters / 2 % 2 == 0 ? value : -value;
}

const std::vector<Case> kCases{
    {MathFunction::kExp, "exp", 1.0, [](double x) { return std::exp(x); }, 0x1p-24f, 0x1p7f},
    {MathFunction::kLog, "log", 0.9, [](double x) { return std::log(x); }, 0x1p-6f, 0x1p6f},
    {MathFunction::kTanh, "tanh", 1.4, [](double x) { return std::tanh(x); }, 0x1p-13f, 0x1p4f},
    {MathFunction::kSigmoid, "sigmoid", 1.7, [](double x) { return 1 / (1 + std::exp(-x)); }, 0x1p-24f, 0x1p7f},
    {MathFunction::kErf, "erf", 1.1, [](double x) { return std::erf(x); }, 0x1p-13f, 0x1p2f},
    {MathFunction::kSin, "sin", 1.0, [](double x) { return turned(x, 0); }, 0x1p-6f, 0x1p3f},
    {MathFunction::kCos, "cos", 1.0, [](double x) { return turned(x, 1); }, 0x1p-6f, 0x1p3f},
};

/// The distance of two neighbours around an exact value.
double unit_in_last_place(double exact) {
  const int exponent = exact == 0 ? -126 : std::max(std::ilogb(exact), -126);
  return std::ldexp(1.0, exponent - 23);
}

double ulp_error(float actual, double exact) {
  if (std::isnan(actual) || std::isnan(exact)) {
    return std::isnan(actual) && std::isnan(exact) ? 0 : std::numeric_limits<double>::infinity();
  }
  if (actual == exact) return 0;
  // An overflow is right where rounding to nearest overflows.
  if (std::isinf(actual) && std::abs(exact) >= 0x1.ffffffp127 && (actual > 0) == (exact > 0)) return 0;
  return std::abs(actual - exact) / unit_in_last_place(exact);
}

struct Worst {
  double ulp = 0;
  float at = 0;
};

/// The worst of fp32 words first, first + step, ..., end - 1 (of the bits of the argument), both signs.
Worst worst_of(const Case& test, std::uint32_t first, std::uint32_t end, std::uint32_t step) {
  constexpr std::int64_t kPiece = 8192;
  const std::int64_t count = (static_cast<std::int64_t>(end) - first + step - 1) / step;
  const std::int64_t pieces = (count + kPiece - 1) / kPiece;
  std::vector<Worst> worsts(static_cast<std::size_t>(pieces));
  core::parallel_for(pieces, [&](std::int64_t piece) {
    std::vector<float> in;
    for (std::int64_t i = piece * kPiece; i < std::min(count, (piece + 1) * kPiece); ++i) {
      const float x = std::bit_cast<float>(first + static_cast<std::uint32_t>(i) * step);
      in.push_back(x);
      in.push_back(-x);
    }
    std::vector<float> out(in.size());
    apply_vector(test.function, out.data(), in.data(), in.size());
    Worst& worst = worsts[static_cast<std::size_t>(piece)];
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double error = ulp_error(out[i], test.exact(in[i]));
      if (error > worst.ulp) worst = {error, in[i]};
    }
  });
  Worst worst;
  for (const Worst& one : worsts) {
    if (one.ulp > worst.ulp) worst = one;
  }
  return worst;
}

std::uint32_t word(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

/// The largest argument the header allows, beyond which there is nothing to test.
float last_argument(const Case& test) {
  return test.function == MathFunction::kSin || test.function == MathFunction::kCos ? 0x1p20f : kInfinity;
}

std::vector<float> assorted() {
  std::vector<float> values{0.0f,      -0.0f,     kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(),
                            0x1p-149f, 0x1p-126f, 0x1p127f,  -0x1p-149f, std::numeric_limits<float>::max()};
  for (std::uint32_t i = 0; i < 400000; ++i) values.push_back(std::bit_cast<float>(i * 10711u + 17u));
  for (int i = 0; i < 20001; ++i) values.push_back(static_cast<float>(i - 10000) * 0.0013f);
  return values;
}

TEST_CASE("elementary functions keep their error bounds on a dense sample") {
  for (const Case& test : kCases) {
    for (const auto& [from, to, step] :
         {std::tuple(0.0f, test.from, 8191u), {test.from, test.to, 32u}, {test.to, last_argument(test), 8191u}}) {
      const Worst worst = worst_of(test, word(from), word(to) + 1, step);
      INFO(test.name << "(" << worst.at << ") is wrong by " << worst.ulp << " ulp");
      CHECK(worst.ulp <= test.most_ulp);
    }
  }
}

TEST_CASE("elementary functions keep their error bounds for every argument", "[.every]") {
  for (const Case& test : kCases) {
    const Worst worst = worst_of(test, 0, word(last_argument(test)) + 1, 1);
    WARN(test.name << ": " << worst.ulp << " ulp at " << worst.at);
    CHECK(worst.ulp <= test.most_ulp);
  }
}

TEST_CASE("the normal distribution keeps its relative error far into the tail") {
  const std::vector<float> in = assorted();
  std::vector<float> cdf(in.size());
  std::vector<float> gaussian(in.size());
  apply_vector(MathFunction::kNormalCdf, cdf.data(), in.data(), in.size());
  apply_vector(MathFunction::kGaussian, gaussian.data(), in.data(), in.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const double x = in[i];
    if (std::isnan(x)) {
      CHECK((std::isnan(cdf[i]) && std::isnan(gaussian[i])));
      continue;
    }
    const double relative = std::isinf(x) ? 0 : (8 + std::min(x * x, 1000.0)) * 0x1p-24;
    const double exact_gaussian = std::exp(-x * x / 2);
    const bool right = std::abs(cdf[i] - exact_normal_cdf(x)) <= relative * exact_normal_cdf(x) + 0x1p-149 &&
                       std::abs(gaussian[i] - exact_gaussian) <= relative * exact_gaussian + 0x1p-149;
    if (!right && ++wrong < 5) {
      FAIL_CHECK("x = " << x << ": " << cdf[i] << " for " << exact_normal_cdf(x) << ", " << gaussian[i] << " for "
                        << exact_gaussian);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("elementary functions have the same bits as vectors of every tier and as single numbers") {
  const std::vector<float> in = assorted();
  const core::Tier before = core::tier();
  for (int f = 0; f <= static_cast<int>(MathFunction::kCos); ++f) {
    const auto function = static_cast<MathFunction>(f);
    std::vector<float> expected(in.size());
    apply_scalar(function, expected.data(), in.data(), in.size());
    for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2, core::Tier::kAvx512}) {
      if (tier > before) continue;
      core::pin_tier(tier);
      std::vector<float> out(in.size());
      apply_vector(function, out.data(), in.data(), in.size());
      std::size_t differ = 0;
      for (std::size_t i = 0; i < in.size(); ++i) {
        const bool trigonometric = function == MathFunction::kSin || function == MathFunction::kCos;
        if (trigonometric && !(std::abs(in[i]) < 0x1p20f)) continue;
        const bool same = std::isnan(expected[i]) ? std::isnan(out[i]) : word(expected[i]) == word(out[i]);
        if (!same && ++differ < 3) {
          FAIL_CHECK("function " << f << " of " << in[i] << " on " << core::name(tier) << ": " << out[i] << ", not "
                                 << expected[i]);
        }
      }
      CHECK(differ == 0);
    }
    core::pin_tier(before);
  }
}

}  // namespace
}  // namespace braise::test
