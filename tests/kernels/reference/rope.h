// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attention/rope.h"

namespace braise::reference {

/// Turns the pairs of every head of x [tokens, heads, head_size] by its token's position times the frequencies, times
/// `direction` (1, or -1 for the gradient).
inline std::vector<double> rope(const std::vector<double>& x, const std::vector<std::int64_t>& positions,
                                std::size_t heads, std::size_t head_size, const attention::RopeFrequencies& frequencies,
                                attention::RopePairing pairing, double direction) {
  std::vector<double> y = x;
  const std::size_t pairs = frequencies.radians.size();
  for (std::size_t row = 0; row < positions.size() * heads; ++row) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const bool halves = pairing == attention::RopePairing::kHalves;
      const std::size_t a = row * head_size + (halves ? i : 2 * i);
      const std::size_t b = row * head_size + (halves ? pairs + i : 2 * i + 1);
      const double angle = direction * static_cast<double>(positions[row / heads]) * frequencies.radians[i];
      y[a] = frequencies.attention_factor * (x[a] * std::cos(angle) - x[b] * std::sin(angle));
      y[b] = frequencies.attention_factor * (x[b] * std::cos(angle) + x[a] * std::sin(angle));
    }
  }
  return y;
}

}  // namespace braise::reference
