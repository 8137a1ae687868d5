// SPDX-License-Identifier: Apache-2.0
#include "kernels/loss/cross_entropy.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "tests/kernels/reference/linear.h"
#include "tests/kernels/reference/loss.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;
namespace reference = braise::reference;
using braise::linear::PackedMatrix;
using braise::loss::combine_cross_entropy;
using braise::loss::CrossEntropy;
using braise::loss::linear_cross_entropy_backward;
using braise::loss::linear_cross_entropy_forward;
using braise::loss::partial_cross_entropy;
using Catch::Contains;

namespace {

struct Case {
  Case(Bench& bench, Dtype type, std::int64_t m, std::int64_t c, std::int64_t v, std::uint64_t seed, double range = 1)
      : dtype(type),
        rows(m),
        channels(c),
        tokens(v),
        x(type, Shape{m, c}, random_values(Shape{m, c}, type, seed, range), Layout::kPaddedRows),
        weight(type, Shape{v, c}, random_values(Shape{v, c}, type, seed + 1)),
        gradients(Dtype::kFloat32, Shape{m}, random_values(Shape{m}, Dtype::kFloat32, seed + 2)),
        targets(Dtype::kInt32, Shape{m}),
        packed(bench.arena(), type, c, v, Category::kParameters, "head"),
        losses(Dtype::kFloat32, Shape{m}),
        log_sums(Dtype::kFloat32, Shape{m}),
        dx(type, Shape{m, c}, Layout::kPaddedRows),
        dw(Dtype::kFloat32, Shape{v, c}, random_values(Shape{v, c}, Dtype::kFloat32, seed + 3)) {
    const std::vector<double> random = random_values(Shape{m}, Dtype::kFloat32, seed + 4);
    std::vector<double> values;
    for (std::size_t i = 0; i < static_cast<std::size_t>(m); ++i) {
      const auto token = static_cast<std::int32_t>((random[i] + 1) / 2 * static_cast<double>(v - 1));
      target.push_back(i % 5 == 3 ? -100 : token);
      values.push_back(target.back());
    }
    targets.set(values);
    packed.pack(bench.stream(), weight.view().transposed(0, 1));
  }
  void run(Stream& stream, const CrossEntropy& settings) {
    linear_cross_entropy_forward(stream, losses.view(), log_sums.view(), x.view(), packed, targets.view(), settings);
    linear_cross_entropy_backward(stream, dx.view(), dw.view(), gradients.view(), log_sums.view(), x.view(), packed,
                                  weight.view(), targets.view(), settings);
  }
  /// The same with the vocabulary in parts of those widths.
  void run_parts(Bench& bench, const CrossEntropy& settings, const std::vector<std::int64_t>& widths) {
    Stream& stream = bench.stream();
    const TestTensor partials(Dtype::kFloat32, Shape{static_cast<std::int64_t>(widths.size()), rows, 4});
    std::vector<PackedMatrix> heads;
    std::int64_t first = 0;
    for (std::size_t i = 0; i < widths.size(); first += widths[i++]) {
      heads.emplace_back(bench.arena(), dtype, channels, widths[i], Category::kParameters, "head");
      heads[i].pack(stream, weight.view().slice(0, first, first + widths[i]).transposed(0, 1));
      partial_cross_entropy(stream, partials.view().select(0, static_cast<std::int64_t>(i)), x.view(), heads[i],
                            targets.view(), settings, {first, tokens});
    }
    combine_cross_entropy(stream, losses.view(), log_sums.view(), partials.view(), targets.view(), settings, tokens);
    std::vector<double> sum(static_cast<std::size_t>(rows * channels), 0);
    first = 0;
    for (std::size_t i = 0; i < widths.size(); first += widths[i++]) {
      const TestTensor part(Dtype::kFloat32, Shape{rows, channels});
      const auto mine = [&](const TensorView& all) { return all.slice(0, first, first + widths[i]); };
      linear_cross_entropy_backward(stream, part.view(), mine(dw.view()), gradients.view(), log_sums.view(), x.view(),
                                    heads[i], mine(weight.view()), targets.view(), settings, {first, tokens});
      const std::vector<double> values = part.values();
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += values[j];
    }
    dx.set(sum);
  }
  Dtype dtype;
  std::int64_t rows, channels, tokens;
  TestTensor x, weight, gradients, targets;
  PackedMatrix packed;
  TestTensor losses, log_sums, dx, dw;
  std::vector<std::int32_t> target;
};

std::size_t size(std::int64_t value) {
  return static_cast<std::size_t>(value);
}

void check(Bench& bench, Case& c, const CrossEntropy& settings, const std::vector<std::int64_t>& widths = {}) {
  const std::vector<double> x = c.x.values();
  const std::vector<double> weight = c.weight.values();
  const std::vector<double> crossed = reference::transposed(weight, size(c.tokens), size(c.channels));
  const std::vector<double> logits = reference::matmul(x, crossed, size(c.rows), size(c.channels), size(c.tokens));
  const std::vector<double> magnitudes = reference::matmul(reference::magnitudes(x), reference::magnitudes(crossed),
                                                           size(c.rows), size(c.channels), size(c.tokens));
  const std::vector<double> gradients = c.gradients.values();
  const auto want =
      reference::cross_entropy(logits, c.target, gradients, size(c.tokens), settings.label_smoothing, settings.z_loss,
                               settings.logit_cap);
  const std::vector<double> before = c.dw.values();
  widths.empty() ? c.run(bench.stream(), settings) : c.run_parts(bench, settings, widths);

  // A logit errs by C + 2 roundings of the magnitudes in it; what is made of logits, by that and a few roundings more.
  double largest = 0;
  for (const double magnitude : magnitudes) largest = std::max(largest, magnitude);
  const double logit_error = static_cast<double>(c.channels + 2) * 0x1p-24 * largest;
  const double sums = (static_cast<double>(c.tokens) / 256 + 40) * 0x1p-24;
  double log_sum_size = 1;
  for (const double value : want.log_sums) log_sum_size = std::max(log_sum_size, std::abs(value));
  const double slope = 1 + 2 * settings.z_loss * log_sum_size;
  check_close(c.log_sums.values(), want.log_sums, sums, 2 * logit_error + sums, "log_sums");
  check_close(c.losses.values(), want.losses, sums, slope * (4 * logit_error + sums * (log_sum_size + largest)),
              "losses");

  // dz is rounded to the dtype; its error is at most this part of |gradient| (p + target + smoothing).
  const double part =
      unit_roundoff(c.dtype) + 4 * logit_error + sums + static_cast<double>(c.rows + c.tokens) * 0x1p-24;
  const double subnormal = c.dtype == Dtype::kFloat16 ? 0x1p-25 : 0;  // half the spacing near 0
  std::vector<double> dz_bound(want.dz.size());
  for (std::size_t i = 0; i < dz_bound.size(); ++i) {
    const std::size_t m = i / size(c.tokens);
    const bool at_target = static_cast<std::int64_t>(i % size(c.tokens)) == c.target[m];
    dz_bound[i] = c.target[m] < 0 ? 0
                                  : std::abs(gradients[m]) * slope *
                                            (std::exp(logits[i] - want.log_sums[m]) + (at_target ? 1 : 0) +
                                             settings.label_smoothing / static_cast<double>(c.tokens)) +
                                        subnormal / part;
  }
  const auto dx = reference::matmul(want.dz, weight, size(c.rows), size(c.tokens), size(c.channels));
  const auto dx_bound =
      reference::matmul(dz_bound, reference::magnitudes(weight), size(c.rows), size(c.tokens), size(c.channels));
  check_close(
      c.dx.values(), dx,
      [&](std::size_t i) { return part * dx_bound[i] + unit_roundoff(c.dtype) * std::abs(dx[i]) + subnormal + 1e-30; },
      "dx");
  auto dw = reference::matmul(reference::transposed(want.dz, size(c.rows), size(c.tokens)), x, size(c.tokens),
                              size(c.rows), size(c.channels));
  const auto dw_bound = reference::matmul(reference::transposed(dz_bound, size(c.rows), size(c.tokens)),
                                          reference::magnitudes(x), size(c.tokens), size(c.rows), size(c.channels));
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += before[i];
  check_close(
      c.dw.values(), dw, [&](std::size_t i) { return part * dw_bound[i] + 0x1p-23 * std::abs(dw[i]) + 1e-30; }, "dw");
  CHECK((c.losses.intact() && c.log_sums.intact() && c.dx.intact() && c.dw.intact()));
}

}  // namespace

TEST_CASE("the loss of a projection and its gradients are within rounding of the definition") {
  Bench bench;
  std::uint64_t seed = 300;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const auto& [rows, channels, tokens] : {std::array<std::int64_t, 3>{1, 1, 1},
                                                 {3, 7, 5},
                                                 {17, 33, 257},
                                                 {129, 16, 300},
                                                 {5, 64, 1000},
                                                 {9, 3, 8192 + 17}}) {
      for (const CrossEntropy& settings :
           {CrossEntropy{}, CrossEntropy{-100, 0.1f, 0}, CrossEntropy{-100, 0, 1e-2f}, CrossEntropy{-100, 1, 1e-3f},
            CrossEntropy{-100, 0.2f, 1e-3f, 1.5f}, CrossEntropy{-100, 0, 0, 30}}) {
        INFO(name(dtype) << " M " << rows << " C " << channels << " V " << tokens << " smoothing "
                         << settings.label_smoothing << " z-loss " << settings.z_loss << " cap "
                         << settings.logit_cap);
        Case c(bench, dtype, rows, channels, tokens, seed += 10);
        check(bench, c, settings);
      }
    }
  }
}

TEST_CASE("so are those of a vocabulary in parts, of which one alone gives the same bits") {
  Bench bench;
  std::uint64_t seed = 900;
  const std::vector<std::vector<std::int64_t>> cuts{{1, 4}, {100, 157}, {64, 65, 64, 64}, {300, 1, 699}, {8300, 9}};
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const std::vector<std::int64_t>& widths : cuts) {
      for (const CrossEntropy& settings : {CrossEntropy{}, CrossEntropy{-100, 0.2f, 1e-2f}}) {
        std::int64_t tokens = 0;
        for (const std::int64_t width : widths) tokens += width;
        INFO(name(dtype) << " V " << tokens << " in " << widths.size() << " parts");
        Case c(bench, dtype, 13, 24, tokens, seed += 10);
        check(bench, c, settings, widths);
        Case whole(bench, dtype, 13, 24, tokens, seed), one(bench, dtype, 13, 24, tokens, seed);
        whole.run(bench.stream(), settings);
        one.run_parts(bench, settings, {tokens});
        CHECK((one.losses.bytes() == whole.losses.bytes() && one.log_sums.bytes() == whole.log_sums.bytes()));
        CHECK((one.dx.bytes() == whole.dx.bytes() && one.dw.bytes() == whole.dw.bytes()));
      }
    }
  }
}

TEST_CASE("very large logits neither overflow nor vanish") {
  Bench bench;
  Case c(bench, Dtype::kFloat32, 8, 16, 600, 11, 300);
  check(bench, c, {});
  for (const double loss : c.losses.values()) CHECK(std::isfinite(loss));
}

TEST_CASE("the reference's gradient is its slope") {
  std::vector<double> logits = random_values(Shape{3, 7}, Dtype::kFloat32, 5, 3);
  const std::vector<std::int32_t> targets{2, -1, 6};
  const std::vector<double> gradients{0.5, 2, -1.5};
  const double cap = GENERATE(0.0, 2.5);
  const auto at = reference::cross_entropy(logits, targets, gradients, 7, 0.2, 0.05, cap);
  const auto total = [&] {
    const auto moved = reference::cross_entropy(logits, targets, gradients, 7, 0.2, 0.05, cap);
    double sum = 0;
    for (std::size_t m = 0; m < 3; ++m) sum += gradients[m] * moved.losses[m];
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double value = logits[i];
    logits[i] = value + kStep;
    const double above = total();
    logits[i] = value - kStep;
    const double below = total();
    logits[i] = value;
    REQUIRE((above - below) / (2 * kStep) == Approx(at.dz[i]).margin(1e-8));
  }
}

TEST_CASE("a row's loss depends neither on the rows beside it nor on the threads") {
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    Case c(bench, dtype, 150, 48, 700, 21);
    std::string first;
    std::string first_gradients;
    const std::vector<double> dw = c.dw.values();
    with_threads([&](int) {
      c.dw.set(dw);
      c.run(bench.stream(), {});
      if (first.empty()) {
        first = c.losses.bytes();
        first_gradients = c.dx.bytes() + c.dw.bytes();
      }
      CHECK(c.losses.bytes() == first);
      CHECK(c.dx.bytes() + c.dw.bytes() == first_gradients);
      for (const std::int64_t rows : {1, 3, 17, 64}) {
        const TestTensor losses(Dtype::kFloat32, Shape{rows});
        const TestTensor log_sums(Dtype::kFloat32, Shape{rows});
        linear_cross_entropy_forward(bench.stream(), losses.view(), log_sums.view(), c.x.view().slice(0, 50, 50 + rows),
                                     c.packed, c.targets.view().slice(0, 50, 50 + rows));
        CHECK(losses.bytes() == first.substr(50 * 4, size(rows) * 4));
      }
    });
  }
}

TEST_CASE("a target out of range is named, and nothing is written") {
  Bench bench;
  Case c(bench, Dtype::kFloat32, 4, 8, 10, 31);
  const TestTensor targets(Dtype::kInt32, Shape{4}, {1, 2, 10, 3});
  CHECK_THROWS_WITH(linear_cross_entropy_forward(bench.stream(), c.losses.view(), c.log_sums.view(), c.x.view(),
                                                 c.packed, targets.view()),
                    Contains("the target of row 2 is 10; it must be from 0 to 9, or -100 to ignore the row"));
  CHECK(std::isnan(c.losses.values()[0]));
  CHECK_THROWS_WITH(c.run(bench.stream(), CrossEntropy{-100, 2, 0}), Contains("label_smoothing"));
  CHECK_THROWS_WITH(c.run(bench.stream(), CrossEntropy{-100, 0, -1}), Contains("z_loss"));
}

TEST_CASE("no rows have no loss") {
  Bench bench;
  Case c(bench, Dtype::kBfloat16, 0, 8, 10, 41);
  const std::string dw = c.dw.bytes();
  c.run(bench.stream(), {});
  CHECK(c.dw.bytes() == dw);
}
