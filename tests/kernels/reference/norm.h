// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace braise::reference {

/// What the norms of rows give, and what their gradients need.
struct NormForward {
  std::vector<double> y;
  std::vector<double> mean;  ///< of each row; 0 unless centered
  std::vector<double> inverse_std;
};

/// RMSNorm (not centered) or LayerNorm (centered) of rows of scale.size() numbers; `bias` may be empty.
inline NormForward norm_forward(const std::vector<double>& x, const std::vector<double>& scale,
                                const std::vector<double>& bias, double epsilon, bool centered) {
  const std::size_t columns = scale.size();
  NormForward result{x, {}, {}};
  for (std::size_t row = 0; row < x.size() / columns; ++row) {
    const double* const from = x.data() + row * columns;
    double mean = 0;
    if (centered) {
      for (std::size_t c = 0; c < columns; ++c) mean += from[c];
      mean /= static_cast<double>(columns);
    }
    double variance = 0;
    for (std::size_t c = 0; c < columns; ++c) variance += (from[c] - mean) * (from[c] - mean);
    const double inverse_std = 1 / std::sqrt(variance / static_cast<double>(columns) + epsilon);
    for (std::size_t c = 0; c < columns; ++c) {
      result.y[row * columns + c] = (from[c] - mean) * inverse_std * scale[c] + (bias.empty() ? 0.0 : bias[c]);
    }
    result.mean.push_back(mean);
    result.inverse_std.push_back(inverse_std);
  }
  return result;
}

struct NormBackward {
  std::vector<double> dx;
  std::vector<double> dscale;
  std::vector<double> dbias;
};

inline NormBackward norm_backward(const std::vector<double>& dy, const std::vector<double>& x,
                                  const NormForward& forward, const std::vector<double>& scale, bool centered) {
  const std::size_t columns = scale.size();
  const auto count = static_cast<double>(columns);
  NormBackward result{x, std::vector<double>(columns, 0.0), std::vector<double>(columns, 0.0)};
  for (std::size_t row = 0; row < forward.mean.size(); ++row) {
    const auto normal = [&](std::size_t c) {
      return (x[row * columns + c] - forward.mean[row]) * forward.inverse_std[row];
    };
    double total = 0;
    double along = 0;
    for (std::size_t c = 0; c < columns; ++c) {
      const double gradient = dy[row * columns + c];
      total += gradient * scale[c];
      along += gradient * scale[c] * normal(c);
      result.dscale[c] += gradient * normal(c);
      result.dbias[c] += gradient;
    }
    for (std::size_t c = 0; c < columns; ++c) {
      result.dx[row * columns + c] =
          forward.inverse_std[row] *
          (dy[row * columns + c] * scale[c] - (centered ? total / count : 0.0) - normal(c) * along / count);
    }
  }
  return result;
}

}  // namespace braise::reference
