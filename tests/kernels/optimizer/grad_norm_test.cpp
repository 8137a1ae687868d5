// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/grad_norm.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/reduce.h"
#include "tests/support/tensors.h"

using namespace braise;
using core::Dtype;
using core::Shape;
using test::TestTensor;

TEST_CASE("gradient norm: of all tensors, as one vector, with any number of threads") {
  test::Bench bench;
  std::vector<TestTensor> tensors;
  std::vector<core::ConstTensorView> views;
  double sum = 0;
  std::uint64_t seed = 0;
  for (const auto& [dtype, shape] : std::vector<std::pair<Dtype, Shape>>{{Dtype::kFloat32, {3, 7}},
                                                                         {Dtype::kBfloat16, {129}},
                                                                         {Dtype::kFloat32, {0, 4}},
                                                                         {Dtype::kFloat16, {5000}},
                                                                         {Dtype::kFloat32, {123, 457}}}) {
    const auto values = test::random_values(shape, dtype, ++seed);
    for (const double value : values) sum += value * value;
    tensors.emplace_back(dtype, shape, values);
  }
  for (const TestTensor& tensor : tensors) views.push_back(tensor.view());
  const double norm = optimizer::gradient_norm(bench.stream(), views);
  CHECK(norm == Approx(std::sqrt(sum)).epsilon(1e-13));
  test::with_threads([&](int) { CHECK(optimizer::gradient_norm(bench.stream(), views) == norm); });
  CHECK(optimizer::gradient_norm(bench.stream(), {}) == 0.0);

  // Ranks that hold blocks of it finish with the same bits.
  std::vector<double> sums;
  for (const core::ConstTensorView& view : views) {
    const core::ConstTensorView flat = view.reshaped(Shape{view.elements()});
    for (std::int64_t begin = 0; begin < flat.elements(); begin += core::kReductionBlock) {
      double block = 0;
      core::block_sums_of_squares(bench.stream(), {&block, 1},
                                  flat.slice(0, begin, std::min(begin + core::kReductionBlock, flat.elements())));
      sums.push_back(block);
    }
  }
  CHECK(optimizer::norm_of_blocks(sums) == norm);
}

TEST_CASE("gradient norm: what is not finite is seen") {
  test::Bench bench;
  const double inf = std::numeric_limits<double>::infinity();
  const auto norm = [&](double value) {
    const TestTensor tensor(Dtype::kFloat32, Shape{3}, {1.0, value, -2.0});
    const std::vector<core::ConstTensorView> views{tensor.view()};
    return optimizer::gradient_norm(bench.stream(), views);
  };
  CHECK(norm(inf) == inf);
  CHECK(norm(-inf) == inf);
  CHECK(std::isnan(norm(std::nan(""))));
  CHECK(norm(3e38) == static_cast<double>(3e38f));
}

TEST_CASE("clip factor: as torch.nn.utils.clip_grad_norm_, but loud") {
  CHECK(optimizer::clip_factor(0.0, 1.0) == 1.0f);
  CHECK(optimizer::clip_factor(0.5, 1.0) == 1.0f);
  CHECK(optimizer::clip_factor(4.0, 1.0) == static_cast<float>(1.0 / (4.0 + 1e-6)));
  CHECK(optimizer::clip_factor(1.0, 1.0) == static_cast<float>(1.0 / (1.0 + 1e-6)));
  CHECK(std::isnan(optimizer::clip_factor(std::numeric_limits<double>::infinity(), 1.0)));
  CHECK(std::isnan(optimizer::clip_factor(std::nan(""), 1.0)));
  CHECK_THROWS_WITH(optimizer::clip_factor(1.0, 0.0), "clip_factor: max_norm is not positive");
  CHECK_THROWS_WITH(optimizer::clip_factor(1.0, std::nan("")), "clip_factor: max_norm is not positive");
}
