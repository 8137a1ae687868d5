// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/adam.h"

#include <cmath>

#include "kernels/optimizer/adam_cpu.h"
#include "kernels/optimizer/checks.h"

namespace braise::optimizer {
namespace {

/// beta^n. Not std::pow, whose last bit depends on the library.
double power(double beta, std::int64_t n) {
  double result = 1.0;
  for (; n > 0; n /= 2, beta *= beta) {
    if (n % 2 == 1) result *= beta;
  }
  return result;
}

}  // namespace

void adam_step(core::Stream& stream, const Slice& slice, const core::TensorView& m, const core::TensorView& v,
               const Adam& options, std::int64_t step) {
  constexpr const char* kName = "adam_step";
  check_slice(kName, slice);
  check_state(kName, "m", m, slice, true);
  check_state(kName, "v", v, slice, true);
  check_step(kName, step);
  core::require_cpu(stream, kName);
  const bool decoupled = options.decay == WeightDecay::kDecoupled;
  cpu::adam_step(
      slice, m, v,
      {.negative_rate = static_cast<float>(-(options.learning_rate / (1.0 - power(options.beta1, step)))),
       .taken1 = static_cast<float>(1.0 - options.beta1),
       .kept2 = static_cast<float>(options.beta2),
       .taken2 = static_cast<float>(1.0 - options.beta2),
       .correction2 = static_cast<float>(1.0 / std::sqrt(1.0 - power(options.beta2, step))),
       .epsilon = static_cast<float>(options.epsilon),
       .weight_decay = decoupled ? 0.0f : static_cast<float>(options.weight_decay),
       .shrinkage = decoupled ? static_cast<float>(1.0 - options.learning_rate * options.weight_decay) : 1.0f});
}

}  // namespace braise::optimizer
