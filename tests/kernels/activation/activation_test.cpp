// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/activation/gated.h"
#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "tests/kernels/reference/activation.h"
#include "tests/support/tensors.h"

namespace braise::test {
namespace {

using activation::Activation;
using core::Accumulate;
using core::Dtype;
constexpr double kUnit = 0x1p-24;
const std::vector<Dtype> kFloats{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16};
const std::vector<Activation> kActivations{Activation::kGelu, Activation::kGeluTanh, Activation::kSilu};

/// The relative error of f and of each term of f': a dozen units of rounding in the formulas, and the rounding of the
/// argument of the exponential, two or three units of it, which the exponential makes relative (up to the argument 105,
/// beyond which it is 0).
double relative(Activation function, double x) {
  const double argument = function == Activation::kGelu       ? x * x / 2
                          : function == Activation::kGeluTanh ? 1.6 * std::abs(x) + 0.072 * std::abs(x * x * x)
                                                              : 0;
  return kUnit * (14 + 3 * std::min(argument, 105.0));
}

std::vector<reference::ActivationValue> expected_of(Activation function, const std::vector<double>& x) {
  std::vector<reference::ActivationValue> values;
  for (const double one : x) values.push_back(reference::activation(function, one));
  return values;
}

/// The absolute error where a factor is subnormal, which the other factor enlarges: x, or of f' of kGeluTanh x v',
/// which is under x^3 / 4 + 2 x. Beyond 110 all subnormal factors are 0, for kGeluTanh beyond 11.
double least(double x) {
  return 0x1p-148 * (1 + 2 * std::min(std::abs(x), 110.0) + std::pow(std::min(std::abs(x), 11.0), 3) / 4);
}

void check_plain(Activation function, Dtype dtype, const core::Shape& shape, Layout layout,
                 const std::vector<double>& x, Accumulate accumulate) {
  Bench bench;
  const auto dy = random_values(shape, dtype, 77);
  const auto old = random_values(shape, dtype, 78);
  const bool add = accumulate == Accumulate::kAdd;
  const TestTensor x_tensor(dtype, shape, x, layout);
  const TestTensor dy_tensor(dtype, shape, dy, layout);
  const TestTensor y(dtype, shape, layout);
  TestTensor dx(dtype, shape, layout);
  if (add) dx.set(old);
  activation::activation_forward(bench.stream(), y.view(), x_tensor.view(), function);
  activation::activation_backward(bench.stream(), dx.view(), dy_tensor.view(), x_tensor.view(), function, accumulate);
  CHECK((y.intact() && dx.intact()));
  const auto expected = expected_of(function, x);
  std::vector<double> expected_y;
  std::vector<double> expected_dx;
  for (std::size_t i = 0; i < x.size(); ++i) {
    expected_y.push_back(expected[i].value);
    expected_dx.push_back(dy[i] * expected[i].slope + (add ? old[i] : 0));
  }
  const std::string what = "function " + std::to_string(static_cast<int>(function)) + " of " + x_tensor.view().text();
  check_close(
      y.values(), expected_y,
      [&](std::size_t i) {
        return relative(function, x[i]) * std::abs(expected_y[i]) + least(x[i]) + rounding_error(expected_y[i], dtype);
      },
      what);
  check_close(
      dx.values(), expected_dx,
      [&](std::size_t i) {
        return (relative(function, x[i]) * expected[i].slope_terms + least(x[i])) * std::abs(dy[i]) +
               (add ? kUnit * std::abs(old[i]) : 0) + rounding_error(expected_dx[i], dtype);
      },
      what + ", backward");
}

TEST_CASE("activations and their gradients give what double precision gives") {
  std::uint64_t seed = 0;
  for (const Activation function : kActivations) {
    for (const Dtype dtype : kFloats) {
      for (const core::Shape& shape :
           {core::Shape{1}, {3}, {7}, {2, 17}, {3, 33}, {2, 3, 129}, {3, 4096 + 5}, {0}, {4, 0}}) {
        for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
          const double scale = seed % 3 == 0 ? 1.0 : seed % 3 == 1 ? 6.0 : 20.0;
          const auto x = random_values(shape, dtype, ++seed, scale);
          check_plain(function, dtype, shape, layout, x,
                      layout == Layout::kContiguous ? Accumulate::kOverwrite : Accumulate::kAdd);
        }
      }
    }
  }
}

TEST_CASE("activations stand extreme values") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> x{0,    -0.0, 1e30, -1e30, nan,      1e10, -1e10, 0x1p-149, -0x1p-149, 0x1p-126,
                        -100, 100,  -88,  -104,  0x1p-130, 3e38, -3e38, 15.9,     16.1,      -13.5};
  for (double& one : x) one = rounded(one, Dtype::kFloat32);
  for (const Activation function : kActivations) {
    check_plain(function, Dtype::kFloat32, {20}, Layout::kContiguous, x, Accumulate::kOverwrite);
    Bench bench;
    const TestTensor infinite(Dtype::kFloat32, {1}, {std::numeric_limits<double>::infinity()});
    const TestTensor y(Dtype::kFloat32, {1});
    activation::activation_forward(bench.stream(), y.view(), infinite.view(), function);
    CHECK(y.values()[0] == std::numeric_limits<double>::infinity());
  }
}

TEST_CASE("the references of activations agree with finite differences") {
  for (const Activation function : kActivations) {
    for (double x = -9; x < 9; x += 0.37) {
      constexpr double kStep = 1e-5;
      const double difference =
          (reference::activation(function, x + kStep).value - reference::activation(function, x - kStep).value) /
          (2 * kStep);
      CHECK(reference::activation(function, x).slope == Approx(difference).margin(1e-9).epsilon(1e-8));
    }
  }
}

TEST_CASE("gated units give what double precision gives") {
  std::uint64_t seed = 500;
  for (const Activation function : kActivations) {
    for (const Dtype dtype : kFloats) {
      for (const std::int64_t columns : {1, 7, 16, 33, 129}) {
        for (const bool add : {false, true}) {
          // gate and up are the halves of rows, and so are their gradients.
          const core::Shape both{3, 2 * columns};
          const core::Shape shape{3, columns};
          seed += 10;
          const auto inputs = random_values(both, dtype, seed, 5.0);
          const auto dy = random_values(shape, dtype, seed + 1);
          const auto old = random_values(both, dtype, seed + 2);
          Bench bench;
          const TestTensor input_tensor(dtype, both, inputs);
          const TestTensor dy_tensor(dtype, shape, dy, Layout::kPaddedRows);
          const TestTensor y(dtype, shape, Layout::kPaddedRows);
          TestTensor gradients(dtype, both);
          if (add) gradients.set(old);
          const auto gate = input_tensor.view().slice(1, 0, columns);
          const auto up = input_tensor.view().slice(1, columns, 2 * columns);
          activation::gated_forward(bench.stream(), y.view(), gate, up, function);
          activation::gated_backward(bench.stream(), gradients.view().slice(1, 0, columns),
                                     gradients.view().slice(1, columns, 2 * columns), dy_tensor.view(), gate, up,
                                     function, add ? Accumulate::kAdd : Accumulate::kOverwrite);
          CHECK((y.intact() && gradients.intact()));
          const auto width = static_cast<std::size_t>(columns);
          const auto gate_at = [&](std::size_t i) { return i / width * 2 * width + i % width; };
          const auto expected_at = [&](std::size_t i) { return reference::activation(function, inputs[gate_at(i)]); };
          std::vector<double> expected_y(3 * width);
          std::vector<double> expected_gradients(6 * width);
          std::vector<double> allowed(6 * width);
          for (std::size_t i = 0; i < 3 * width; ++i) {
            const std::size_t g = gate_at(i);
            const std::size_t u = g + width;
            const auto f = expected_at(i);
            expected_y[i] = f.value * inputs[u];
            expected_gradients[g] = dy[i] * inputs[u] * f.slope + (add ? old[g] : 0);
            expected_gradients[u] = dy[i] * f.value + (add ? old[u] : 0);
            allowed[g] = (relative(function, inputs[g]) + 2 * kUnit) * std::abs(dy[i] * inputs[u]) * f.slope_terms;
            allowed[u] = (relative(function, inputs[g]) + 2 * kUnit) * std::abs(dy[i] * f.value);
          }
          check_close(
              y.values(), expected_y,
              [&](std::size_t i) {
                return (relative(function, inputs[gate_at(i)]) + kUnit) * std::abs(expected_y[i]) +
                       rounding_error(expected_y[i], dtype) + 2 * least(5);
              },
              "gated");
          check_close(
              gradients.values(), expected_gradients,
              [&](std::size_t i) {
                return allowed[i] + (add ? kUnit * std::abs(old[i]) : 0) +
                       rounding_error(expected_gradients[i], dtype) + 2 * least(5);
              },
              "gated, backward");
        }
      }
    }
  }
}

TEST_CASE("activations do not depend on threads, tier or place, and work in place") {
  const core::Shape shape{5, 4111};
  const auto x = random_values(shape, Dtype::kBfloat16, 31, 8.0);
  const auto g = random_values(shape, Dtype::kBfloat16, 32);
  for (const Activation function : kActivations) {
    const auto run = [&](Layout layout, bool in_place) {
      Bench bench;
      auto& stream = bench.stream();
      const TestTensor a(Dtype::kBfloat16, shape, x, layout);
      const TestTensor b(Dtype::kBfloat16, shape, x, layout);
      const TestTensor c(Dtype::kBfloat16, shape, g, layout);
      const TestTensor d(Dtype::kBfloat16, shape, g, layout);
      const TestTensor e(Dtype::kBfloat16, shape, g, layout);
      const TestTensor new_y(Dtype::kBfloat16, shape, layout);
      const TestTensor new_dx(Dtype::kBfloat16, shape, layout);
      const TestTensor new_up(Dtype::kBfloat16, shape, layout);
      std::vector<std::vector<double>> results;
      const TestTensor& dx = in_place ? c : new_dx;
      activation::activation_backward(stream, dx.view(), c.view(), a.view(), function, Accumulate::kOverwrite);
      results.push_back(dx.values());
      const TestTensor& y = in_place ? b : new_y;
      activation::activation_forward(stream, y.view(), b.view(), function);
      results.push_back(y.values());
      const TestTensor& dgate = in_place ? a : new_dx;
      const TestTensor& dup = in_place ? d : new_up;
      activation::gated_backward(stream, dgate.view(), dup.view(), d.view(), a.view(), e.view(), function,
                                 Accumulate::kOverwrite);
      results.push_back(dgate.values());
      results.push_back(dup.values());
      CHECK((a.intact() && b.intact() && c.intact() && d.intact()));
      return results;
    };
    const auto expected = run(Layout::kContiguous, false);
    with_threads([&](int) { CHECK(run(Layout::kContiguous, false) == expected); });
    CHECK(run(Layout::kPaddedRows, false) == expected);
    CHECK(run(Layout::kContiguous, true) == expected);
    const core::Tier before = core::tier();
    for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2}) {
      if (tier > before) continue;
      core::pin_tier(tier);
      CHECK(run(Layout::kContiguous, false) == expected);
    }
    core::pin_tier(before);
  }
}

TEST_CASE("activations refuse what they cannot do") {
  Bench bench;
  const TestTensor x(Dtype::kBfloat16, {4, 4});
  const TestTensor y(Dtype::kFloat32, {4, 4});
  const TestTensor words(Dtype::kInt32, {4, 4});
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(activation::activation_forward(bench.stream(), y.view(), x.view(), Activation::kSilu),
                    Contains("activation_forward: y is fp32[4 x 4], not bf16[4 x 4]"));
  CHECK_THROWS_AS(activation::activation_forward(bench.stream(), words.view(), words.view(), Activation::kSilu),
                  core::Error);
  CHECK_THROWS_AS(activation::gated_forward(bench.stream(), x.view(), x.view(), {}, Activation::kGeluTanh),
                  core::Error);
  CHECK_THROWS_WITH(
      activation::activation_forward(bench.stream(), x.view(), x.view().transposed(0, 1), Activation::kGelu),
      Contains("last dimension is not contiguous"));
}

}  // namespace
}  // namespace braise::test
