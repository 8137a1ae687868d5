// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace braise::reference {

/// y[m, n] = sum over k of x[m, k] b[k, n]; row-major.
inline std::vector<double> matmul(const std::vector<double>& x, const std::vector<double>& b, std::size_t rows,
                                  std::size_t depth, std::size_t columns) {
  std::vector<double> y(rows * columns, 0.0);
  for (std::size_t m = 0; m < rows; ++m) {
    for (std::size_t k = 0; k < depth; ++k) {
      for (std::size_t n = 0; n < columns; ++n) y[m * columns + n] += x[m * depth + k] * b[k * columns + n];
    }
  }
  return y;
}

/// The matrix of absolute values: what bounds the rounding of a product.
inline std::vector<double> magnitudes(std::vector<double> values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

/// A row-major rows x columns matrix, transposed.
inline std::vector<double> transposed(const std::vector<double>& values, std::size_t rows, std::size_t columns) {
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) result[j * rows + i] = values[i * columns + j];
  }
  return result;
}

}  // namespace braise::reference
