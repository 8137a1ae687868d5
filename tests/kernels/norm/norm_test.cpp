// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/rms_norm.h"
#include "tests/kernels/reference/norm.h"
#include "tests/support/tensors.h"

namespace braise::test {
namespace {

using core::Dtype;
constexpr double kUnit = 0x1p-24;
constexpr float kEpsilon = 1e-5f;
const std::vector<Dtype> kFloats{Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16};

/// One problem: shapes, dtypes and values, and both norms' results on it.
struct Problem {
  bool centered = false;
  core::Shape shape;
  Dtype x_dtype = Dtype::kFloat32;
  Dtype y_dtype = Dtype::kFloat32;
  Dtype weight_dtype = Dtype::kFloat32;
  Layout layout = Layout::kContiguous;
  double offset = 0;
  bool with_bias = true;

  core::Shape rows() const { return core::Shape(shape.extents().first(static_cast<std::size_t>(shape.rank() - 1))); }
  std::int64_t columns() const { return shape[shape.rank() - 1]; }
};

std::vector<double> plus(std::vector<double> values, double offset) {
  for (double& value : values) value += offset;
  return values;
}

void run_forward(const Problem& p, Bench& bench, const TestTensor& y, TestTensor* mean, TestTensor* inverse_std,
                 const core::ConstTensorView& x, const core::ConstTensorView& weight,
                 const core::ConstTensorView& bias) {
  const core::TensorView r = inverse_std == nullptr ? core::TensorView() : inverse_std->view();
  if (p.centered) {
    const core::TensorView m = mean == nullptr ? core::TensorView() : mean->view();
    norm::layer_norm_forward(bench.stream(), y.view(), m, r, x, weight, bias, kEpsilon);
  } else {
    norm::rms_norm_forward(bench.stream(), y.view(), r, x, weight, kEpsilon, static_cast<float>(p.offset));
  }
}

void run_backward(const Problem& p, Bench& bench, const core::TensorView& dx, const core::TensorView& dweight,
                  const core::TensorView& dbias, const core::ConstTensorView& dy, const core::ConstTensorView& x,
                  const TestTensor& mean, const TestTensor& inverse_std, const core::ConstTensorView& weight,
                  core::Accumulate accumulate) {
  if (p.centered) {
    norm::layer_norm_backward(bench.stream(), dx, dweight, dbias, dy, x, mean.view(), inverse_std.view(), weight,
                              accumulate);
  } else {
    norm::rms_norm_backward(bench.stream(), dx, dweight, dy, x, inverse_std.view(), weight, accumulate,
                            static_cast<float>(p.offset));
  }
}

void check_forward(const Problem& p, const std::vector<double>& x, std::uint64_t seed) {
  const std::int64_t columns = p.columns();
  const auto weight = random_values({columns}, p.weight_dtype, seed + 1, 2.0);
  const bool with_bias = p.centered && p.with_bias;
  const auto bias = with_bias ? random_values({columns}, p.weight_dtype, seed + 2) : std::vector<double>();
  const auto scale = plus(weight, p.offset);
  const auto expected = reference::norm_forward(x, scale, bias, kEpsilon, p.centered);

  Bench bench;
  const TestTensor x_tensor(p.x_dtype, p.shape, x, p.layout);
  const TestTensor weight_tensor(p.weight_dtype, {columns}, weight);
  const TestTensor bias_tensor(p.weight_dtype, {columns}, with_bias ? bias : weight);
  const TestTensor y(p.y_dtype, p.shape, p.layout);
  TestTensor mean(Dtype::kFloat32, p.rows());
  TestTensor inverse_std(Dtype::kFloat32, p.rows());
  run_forward(p, bench, y, &mean, &inverse_std, x_tensor.view(), weight_tensor.view(),
              with_bias ? bias_tensor.view() : core::TensorView());
  CHECK((y.intact() && mean.intact() && inverse_std.intact()));
  const std::string what = std::string(p.centered ? "layer" : "rms") + " norm " + y.view().text();
  if (p.centered) check_close(mean.values(), expected.mean, kUnit, 0x1p-150, what + ", mean");
  check_close(inverse_std.values(), expected.inverse_std, kUnit * 1.0001, 0x1p-150, what + ", inverse_std");
  const auto width = static_cast<std::size_t>(columns);
  check_close(
      y.values(), expected.y,
      [&](std::size_t i) {
        // (x - m) r w + b in five rounded steps, with m and r rounded before.
        const double product = std::abs(expected.inverse_std[i / width] * scale[i % width]);
        const double shift = with_bias ? std::abs(bias[i % width]) : 0;
        const double center = expected.mean[i / width];
        const double least = 0x1p-150 * (2 + std::abs(scale[i % width]));  // steps with subnormal results
        return least + kUnit * (6 * product * std::abs(x[i] - center) + product * std::abs(center) + shift) +
               rounding_error(expected.y[i], p.y_dtype);
      },
      what);
}

void check_backward(const Problem& p, core::Accumulate accumulate, std::uint64_t seed) {
  const std::int64_t columns = p.columns();
  const auto width = static_cast<std::size_t>(columns);
  const auto x = random_values(p.shape, p.x_dtype, seed, 3.0);
  const auto dy = random_values(p.shape, p.y_dtype, seed + 1);
  const auto weight = random_values({columns}, p.weight_dtype, seed + 2, 2.0);
  const auto old = random_values(p.shape, p.x_dtype, seed + 3);
  const auto old_sums = random_values({columns}, Dtype::kFloat32, seed + 4);
  const auto scale = plus(weight, p.offset);
  const auto forward = reference::norm_forward(x, scale, {}, kEpsilon, p.centered);
  const auto expected = reference::norm_backward(dy, x, forward, scale, p.centered);
  const bool add = accumulate == core::Accumulate::kAdd;

  Bench bench;
  const TestTensor x_tensor(p.x_dtype, p.shape, x, p.layout);
  const TestTensor dy_tensor(p.y_dtype, p.shape, dy, p.layout);
  const TestTensor weight_tensor(p.weight_dtype, {columns}, weight);
  const TestTensor mean(Dtype::kFloat32, p.rows(), forward.mean);
  const TestTensor inverse_std(Dtype::kFloat32, p.rows(), forward.inverse_std);
  TestTensor dx(p.x_dtype, p.shape, p.layout);
  if (add) dx.set(old);
  const TestTensor dweight(Dtype::kFloat32, {columns}, old_sums);
  const TestTensor dbias(Dtype::kFloat32, {columns}, old_sums);
  run_backward(p, bench, dx.view(), dweight.view(), dbias.view(), dy_tensor.view(), x_tensor.view(), mean, inverse_std,
               weight_tensor.view(), accumulate);
  CHECK((dx.intact() && dweight.intact() && dbias.intact()));
  CHECK(bench.ledger().total_bytes(core::Space::kDevice) == 0);

  // What the rounding of single steps adds up to: of n; of the two means; of the sums over rows.
  const std::size_t rows = forward.mean.size();
  std::vector<double> slope_error(rows, 0.0);
  std::vector<double> slope(rows, 0.0);
  std::vector<double> total(rows, 0.0);
  std::vector<double> weight_error(width, 0.0);
  std::vector<double> bias_error(width, 0.0);
  const double additions = 32 + std::ceil(std::log2(static_cast<double>(rows) / 32 + 1)) + 2;
  const auto normal = [&](std::size_t i) { return (x[i] - forward.mean[i / width]) * forward.inverse_std[i / width]; };
  const auto normal_error = [&](std::size_t i) {
    return kUnit * (3 * std::abs(normal(i)) + std::abs(forward.mean[i / width]) * forward.inverse_std[i / width]);
  };
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double g = std::abs(dy[i] * scale[i % width]) / static_cast<double>(columns);
    slope[i / width] += g * std::abs(normal(i));
    slope_error[i / width] += g * (normal_error(i) + 4 * kUnit * std::abs(normal(i)));
    total[i / width] += g;
    weight_error[i % width] += std::abs(dy[i]) * (normal_error(i) + additions * kUnit * std::abs(normal(i)));
    bias_error[i % width] += std::abs(dy[i]) * additions * kUnit;
  }
  std::vector<double> expected_dx = expected.dx;
  for (std::size_t i = 0; i < x.size(); ++i) expected_dx[i] += add ? old[i] : 0.0;
  const std::string what = std::string(p.centered ? "layer" : "rms") + " norm backward " + x_tensor.view().text();
  check_close(
      dx.values(), expected_dx,
      [&](std::size_t i) {
        const std::size_t row = i / width;
        const double n = std::abs(normal(i));
        const double parts = std::abs(dy[i] * scale[i % width]) + (p.centered ? total[row] : 0) + n * slope[row];
        const double inside = 7 * kUnit * parts + n * slope_error[row] + normal_error(i) * slope[row];
        return forward.inverse_std[row] * inside + rounding_error(expected_dx[i], p.x_dtype) +
               (add ? kUnit * std::abs(old[i]) : 0);
      },
      what);
  const auto summed = [&](const std::vector<double>& sums) {
    std::vector<double> result = sums;
    for (std::size_t c = 0; c < width; ++c) result[c] += old_sums[c];
    return result;
  };
  check_close(
      dweight.values(), summed(expected.dscale), [&](std::size_t c) { return weight_error[c] + 2 * kUnit; }, what);
  check_close(
      dbias.values(), p.centered ? summed(expected.dbias) : old_sums,
      [&](std::size_t c) { return p.centered ? bias_error[c] + 2 * kUnit : 0; }, what);
}

TEST_CASE("norms give what double precision gives") {
  std::uint64_t seed = 100;
  for (const bool centered : {false, true}) {
    for (const core::Shape& shape :
         {core::Shape{1, 1}, {3}, {2, 3, 7}, {5, 16}, {4, 17}, {3, 33}, {2, 2, 2, 64}, {3, 129}, {2, 768}, {0, 8}}) {
      for (const Dtype x_dtype : kFloats) {
        for (const Dtype y_dtype : kFloats) {
          Problem p{centered, shape, x_dtype, y_dtype};
          for (p.layout = Layout::kContiguous;; p.layout = Layout::kPaddedRows) {
            p.offset = centered ? 0 : p.layout == Layout::kPaddedRows ? 1 : 0;
            p.weight_dtype = p.layout == Layout::kPaddedRows ? x_dtype : Dtype::kFloat32;
            p.with_bias = x_dtype != y_dtype;
            seed += 10;
            check_forward(p, random_values(shape, x_dtype, seed, 3.0), seed);
            check_backward(p, p.with_bias ? core::Accumulate::kAdd : core::Accumulate::kOverwrite, seed + 5);
            if (p.layout == Layout::kPaddedRows) break;
          }
        }
      }
    }
  }
}

TEST_CASE("the sums of norms over many rows are right") {
  for (const bool centered : {false, true}) {
    for (const std::int64_t rows : {31, 32, 33, 64, 65, 97, 200}) {
      Problem p{centered, {rows, 5}};
      check_backward(p, core::Accumulate::kOverwrite, 7000 + static_cast<std::uint64_t>(rows));
    }
  }
}

TEST_CASE("the references of norms agree with finite differences") {
  const core::Shape shape{3, 5};
  const auto x = random_values(shape, Dtype::kFloat32, 1, 2.0);
  const auto dy = random_values(shape, Dtype::kFloat32, 2);
  const auto scale = random_values({5}, Dtype::kFloat32, 3);
  const auto bias = random_values({5}, Dtype::kFloat32, 4);
  for (const bool centered : {false, true}) {
    const auto loss = [&](const std::vector<double>& at, const std::vector<double>& s, const std::vector<double>& b) {
      const auto y = reference::norm_forward(at, s, b, 1e-3, centered).y;
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    const auto gradients =
        reference::norm_backward(dy, x, reference::norm_forward(x, scale, bias, 1e-3, centered), scale, centered);
    constexpr double kStep = 1e-5;  // errors of kStep^2 and 1e-16 / kStep, times a few
    const auto check = [&](const std::vector<double>& gradient, std::vector<double> at, const auto& value) {
      for (std::size_t i = 0; i < at.size(); ++i) {
        const double kept = at[i];
        at[i] = kept + kStep;
        const double above = value(at);
        at[i] = kept - kStep;
        const double below = value(at);
        at[i] = kept;
        CHECK(gradient[i] == Approx((above - below) / (2 * kStep)).margin(1e-8).epsilon(1e-8));
      }
    };
    check(gradients.dx, x, [&](const auto& at) { return loss(at, scale, bias); });
    check(gradients.dscale, scale, [&](const auto& at) { return loss(x, at, bias); });
    check(gradients.dbias, bias, [&](const auto& at) { return loss(x, scale, at); });
  }
}

TEST_CASE("norms stand extreme values") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool centered : {false, true}) {
    for (const auto& row : std::vector<std::vector<double>>{{1e30, -2e30, 5e29, 0},
                                                            {1e-30, -2e-30, 3e-38, 0},
                                                            {0x1p-149, -0x1p-140, 0, -0.0},
                                                            {0, 0, 0, 0},
                                                            {kInfinity, 1, 2, 3},
                                                            {1, nan, 2, 3},
                                                            {1e30, 1, 1e-30, -1},
                                                            {1e4 + 0.5, 1e4 - 0.5, 1e4 + 0.25, 1e4}}) {
      std::vector<double> x;
      for (int i = 0; i < 19; ++i) x.push_back(rounded(row[static_cast<std::size_t>(i % 4)], Dtype::kFloat32));
      check_forward({centered, {1, 19}}, x, 900);
    }
  }
}

TEST_CASE("norms do not depend on threads, tier, place or neighbours") {
  for (const bool centered : {false, true}) {
    Problem p{centered, {77, 37}, Dtype::kBfloat16, Dtype::kBfloat16};
    const auto x = random_values(p.shape, p.x_dtype, 11, 3.0);
    const auto dy = random_values(p.shape, p.x_dtype, 12);
    const TestTensor weight(Dtype::kFloat32, {37}, random_values({37}, Dtype::kFloat32, 13));
    const auto run = [&](Layout layout) {
      Bench bench;
      const TestTensor x_tensor(p.x_dtype, p.shape, x, layout);
      const TestTensor dy_tensor(p.x_dtype, p.shape, dy, layout);
      const TestTensor y(p.y_dtype, p.shape, layout);
      TestTensor mean(Dtype::kFloat32, {77}, std::vector<double>(77, 0.0));
      TestTensor inverse_std(Dtype::kFloat32, {77});
      const TestTensor dx(p.x_dtype, p.shape, layout);
      const TestTensor dweight(Dtype::kFloat32, {37}, std::vector<double>(37, 0.0));
      const TestTensor dbias(Dtype::kFloat32, {37}, std::vector<double>(37, 0.0));
      run_forward(p, bench, y, &mean, &inverse_std, x_tensor.view(), weight.view(), weight.view());
      run_backward(p, bench, dx.view(), dweight.view(), dbias.view(), dy_tensor.view(), x_tensor.view(), mean,
                   inverse_std, weight.view(), core::Accumulate::kOverwrite);
      return std::vector<std::vector<double>>{y.values(),  mean.values(),    inverse_std.values(),
                                              dx.values(), dweight.values(), dbias.values()};
    };
    const auto expected = run(Layout::kContiguous);
    with_threads([&](int) { CHECK(run(Layout::kContiguous) == expected); });
    CHECK(run(Layout::kPaddedRows) == expected);
    const core::Tier before = core::tier();
    for (const core::Tier tier : {core::Tier::kBaseline, core::Tier::kAvx2}) {
      if (tier > before) continue;
      core::pin_tier(tier);
      CHECK(run(Layout::kContiguous) == expected);
    }
    core::pin_tier(before);

    // Rows one by one.
    Bench bench;
    for (std::size_t row = 0; row < 77; ++row) {
      const std::vector<double> own(x.begin() + static_cast<std::ptrdiff_t>(row * 37),
                                    x.begin() + static_cast<std::ptrdiff_t>(row * 37 + 37));
      const TestTensor x_tensor(p.x_dtype, {37}, own);
      const TestTensor y(p.y_dtype, {37});
      run_forward(p, bench, y, nullptr, nullptr, x_tensor.view(), weight.view(), weight.view());
      const auto begin = expected[0].begin() + static_cast<std::ptrdiff_t>(row * 37);
      CHECK(std::equal(begin, begin + 37, y.values().begin()));
    }
  }
}

TEST_CASE("norms work in place, on the heads of a larger tensor") {
  // Queries and keys of 3 + 2 heads of 9, side by side, in a tensor B x T x 45.
  const core::Shape whole{2, 3, 5, 9};
  const auto values = random_values(whole, Dtype::kBfloat16, 21, 2.0);
  const auto gradients = random_values(whole, Dtype::kBfloat16, 22);
  const auto weight = random_values({9}, Dtype::kFloat32, 23);
  const auto expected = reference::norm_forward(values, weight, {}, kEpsilon, false);
  const auto expected_back = reference::norm_backward(gradients, values, expected, weight, false);
  Bench bench;
  const TestTensor x(Dtype::kBfloat16, whole, values);
  const TestTensor before(Dtype::kBfloat16, whole, values);
  const TestTensor dy(Dtype::kBfloat16, whole, gradients);
  const TestTensor w(Dtype::kFloat32, {9}, weight);
  const TestTensor inverse_std(Dtype::kFloat32, {2, 3, 3});
  const TestTensor dweight(Dtype::kFloat32, {9}, std::vector<double>(9, 0.0));
  const core::TensorView queries = x.view().slice(2, 0, 3);
  norm::rms_norm_forward(bench.stream(), queries, inverse_std.view(), queries, w.view(), kEpsilon);
  const core::TensorView in_place = dy.view().slice(2, 0, 3);
  norm::rms_norm_backward(bench.stream(), in_place, {}, in_place, before.view().slice(2, 0, 3), inverse_std.view(),
                          w.view(), core::Accumulate::kOverwrite);
  const auto mixed = [&](const std::vector<double>& changed, const std::vector<double>& kept) {
    std::vector<double> result = kept;
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (i / 9 % 5 < 3) result[i] = changed[i];
    }
    return result;
  };
  CHECK(x.intact());
  check_close(x.values(), mixed(expected.y, values), 0x1p-8 + 8 * kUnit, 0);
  check_close(dy.values(), mixed(expected_back.dx, gradients), 0x1p-8, 40 * kUnit);
  CHECK(dweight.values() == std::vector<double>(9, 0.0));
}

TEST_CASE("norms refuse what they cannot do") {
  Bench bench;
  const TestTensor x(Dtype::kBfloat16, {4, 6});
  const TestTensor y(Dtype::kBfloat16, {4, 6});
  const TestTensor w(Dtype::kFloat32, {6});
  const TestTensor r(Dtype::kFloat32, {4});
  const TestTensor short_weight(Dtype::kFloat32, {5});
  const TestTensor half(Dtype::kBfloat16, {4});
  const TestTensor integers(Dtype::kInt32, {4, 6});
  const TestTensor square(Dtype::kBfloat16, {6, 6});
  auto& stream = bench.stream();
  using Catch::Matchers::Contains;
  CHECK_THROWS_WITH(norm::rms_norm_forward(stream, y.view(), {}, x.view(), short_weight.view(), 1e-5f),
                    Contains("rms_norm_forward: weight is fp32[5]"));
  CHECK_THROWS_WITH(norm::rms_norm_forward(stream, y.view(), half.view(), x.view(), w.view(), 1e-5f),
                    Contains("inverse_std is bf16[4]"));
  CHECK_THROWS_AS(norm::rms_norm_forward(stream, y.view(), {}, integers.view(), w.view(), 1e-5f), core::Error);
  CHECK_THROWS_AS(norm::rms_norm_forward(stream, y.view(), {}, {}, w.view(), 1e-5f), core::Error);
  CHECK_THROWS_WITH(norm::rms_norm_forward(stream, y.view(), {}, x.view(), w.view(), 0.0f), Contains("epsilon"));
  CHECK_THROWS_WITH(
      norm::layer_norm_forward(stream, square.view(), {}, {}, square.view().transposed(0, 1), w.view(), {}, 1e-5f),
      Contains("layer_norm_forward: x is") && Contains("not contiguous"));
  CHECK_THROWS_AS(norm::layer_norm_backward(stream, y.view(), {}, {}, y.view(), x.view(), {}, r.view(), w.view(),
                                            core::Accumulate::kAdd),
                  core::Error);
  const TestTensor single(Dtype::kFloat32, {4, 6});
  CHECK_THROWS_WITH(norm::rms_norm_backward(stream, single.view(), {}, y.view(), x.view(), r.view(), w.view(),
                                            core::Accumulate::kAdd),
                    Contains("dx is fp32"));
}

}  // namespace
}  // namespace braise::test
