// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <numbers>

#include "kernels/activation/activation.h"

namespace braise::reference {

/// f(x), f'(x), and the sum of the magnitudes of the terms of f'(x), which bounds the rounding where they cancel.
struct ActivationValue {
  double value;
  double slope;
  double slope_terms;
};

inline ActivationValue activation(activation::Activation function, double x) {
  using activation::Activation;
  if (function == Activation::kGelu) {
    const double cdf = std::erfc(-x / std::numbers::sqrt2) / 2;
    const double density = std::exp(-x * x / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
    return {x * cdf, cdf + x * density, cdf + std::abs(x * density)};
  }
  // Both others are x s(v) with the sigmoid s.
  const double k = 2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
  const bool tanh = function == Activation::kGeluTanh;
  const double v = tanh ? k * (x + 0.044715 * x * x * x) : x;
  const double rise = tanh ? k * (1 + 3 * 0.044715 * x * x) : 1;
  const double s = v < 0 ? std::exp(v) / (1 + std::exp(v)) : 1 / (1 + std::exp(-v));
  const double complement = v < 0 ? 1 / (1 + std::exp(v)) : std::exp(-v) / (1 + std::exp(-v));
  const double second = x * rise * s * complement;
  return {x * s, s + second, s + std::abs(second)};
}

}  // namespace braise::reference
