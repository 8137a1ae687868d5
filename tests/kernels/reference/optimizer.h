// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/rms_prop.h"
#include "kernels/optimizer/sgd.h"

namespace braise::reference {

/// A step of each optimizer in fp64, from the formulas of torch.optim's documentation. The state of all of them.
struct OptimizerState {
  explicit OptimizerState(std::size_t count) : first(count, 0.0), second(count, 0.0), third(count, 0.0) {}
  std::vector<double> first;   ///< momentum of SGD; v of RMSProp; m of Adam
  std::vector<double> second;  ///< a of RMSProp; v of Adam
  std::vector<double> third;   ///< momentum of RMSProp
};

inline void sgd_step(std::vector<double>& w, const std::vector<double>& gradient, OptimizerState& state,
                     const optimizer::Sgd& o, std::int64_t step) {
  for (std::size_t i = 0; i < w.size(); ++i) {
    double g = gradient[i] + o.weight_decay * w[i];
    if (o.momentum != 0) {
      double& b = state.first[i];
      b = step == 1 ? g : o.momentum * b + (1 - o.dampening) * g;
      g = o.nesterov ? g + o.momentum * b : b;
    }
    w[i] -= o.learning_rate * g;
  }
}

inline void rms_prop_step(std::vector<double>& w, const std::vector<double>& gradient, OptimizerState& state,
                          const optimizer::RmsProp& o) {
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double g = gradient[i] + o.weight_decay * w[i];
    double& v = state.first[i];
    v = o.alpha * v + (1 - o.alpha) * g * g;
    double variance = v;
    if (o.centered) {
      double& average = state.second[i];
      average = o.alpha * average + (1 - o.alpha) * g;
      variance = std::max(0.0, v - average * average);
    }
    double change = g / (std::sqrt(variance) + o.epsilon);
    if (o.momentum != 0) {
      state.third[i] = o.momentum * state.third[i] + change;
      change = state.third[i];
    }
    w[i] -= o.learning_rate * change;
  }
}

inline void adam_step(std::vector<double>& w, const std::vector<double>& gradient, OptimizerState& state,
                      const optimizer::Adam& o, std::int64_t step) {
  for (std::size_t i = 0; i < w.size(); ++i) {
    double g = gradient[i];
    if (o.decay == optimizer::WeightDecay::kGradient) {
      g += o.weight_decay * w[i];
    } else {
      w[i] -= o.learning_rate * o.weight_decay * w[i];
    }
    double& m = state.first[i];
    double& v = state.second[i];
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(o.beta1, static_cast<double>(step)));
    const double v_hat = v / (1 - std::pow(o.beta2, static_cast<double>(step)));
    w[i] -= o.learning_rate * m_hat / (std::sqrt(v_hat) + o.epsilon);
  }
}

}  // namespace braise::reference
