// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/reduce.h"

namespace braise::optimizer {

double gradient_norm(core::Stream& stream, std::span<const core::ConstTensorView> gradients) {
  std::int64_t blocks = 0;
  for (const core::ConstTensorView& gradient : gradients) blocks += core::reduction_blocks(gradient.elements());
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  std::span<double> rest = sums;
  for (const core::ConstTensorView& gradient : gradients) {
    const auto own = static_cast<std::size_t>(core::reduction_blocks(gradient.elements()));
    core::block_sums_of_squares(stream, rest.first(own), gradient);
    rest = rest.subspan(own);
  }
  stream.synchronize();
  return norm_of_blocks(sums);
}

double norm_of_blocks(std::span<const double> sums) {
  return std::sqrt(core::tree_sum(sums));
}

float clip_factor(double norm, double max_norm) {
  core::require(max_norm > 0, "clip_factor", "max_norm is not positive");
  if (!std::isfinite(norm)) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(std::min(1.0, max_norm / (norm + 1e-6)));
}

}  // namespace braise::optimizer
