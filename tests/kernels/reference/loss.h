// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace braise::reference {

/// Cross-entropy of whole logits [M, V] by its definition; targets below 0 are ignored. `dz` is the gradient of the sum
/// of gradients[m] loss[m] by the logits before their cap, if there is one.
struct CrossEntropyResult {
  std::vector<double> losses, log_sums, dz;
};

inline CrossEntropyResult cross_entropy(const std::vector<double>& logits, const std::vector<std::int32_t>& targets,
                                        const std::vector<double>& gradients, std::size_t tokens, double smoothing,
                                        double z_loss, double cap = 0) {
  CrossEntropyResult result;
  result.dz.assign(logits.size(), 0);
  for (std::size_t m = 0; m < targets.size(); ++m) {
    std::vector<double> z(logits.begin() + static_cast<std::ptrdiff_t>(m * tokens),
                          logits.begin() + static_cast<std::ptrdiff_t>((m + 1) * tokens));
    for (double& logit : z) logit = cap > 0 ? cap * std::tanh(logit / cap) : logit;
    double maximum = z[0];
    double mean = 0;
    for (std::size_t v = 0; v < tokens; ++v) {
      maximum = std::fmax(maximum, z[v]);
      mean += z[v] / static_cast<double>(tokens);
    }
    double sum = 0;
    for (std::size_t v = 0; v < tokens; ++v) sum += std::exp(z[v] - maximum);
    const double log_sum = maximum + std::log(sum);
    result.log_sums.push_back(log_sum);
    if (targets[m] < 0) {
      result.losses.push_back(0);
      continue;
    }
    const auto target = static_cast<std::size_t>(targets[m]);
    result.losses.push_back(log_sum - (1 - smoothing) * z[target] - smoothing * mean + z_loss * log_sum * log_sum);
    for (std::size_t v = 0; v < tokens; ++v) {
      const double p = std::exp(z[v] - log_sum);
      const double slope = cap > 0 ? 1 - z[v] * z[v] / (cap * cap) : 1;
      result.dz[m * tokens + v] = gradients[m] * slope *
                                  (p * (1 + 2 * z_loss * log_sum) - (v == target ? 1 - smoothing : 0) -
                                   smoothing / static_cast<double>(tokens));
    }
  }
  return result;
}

}  // namespace braise::reference
