// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace braise::reference {

/// y[n,:] = scale * table[ids[n],:]; row-major, `columns` wide.
inline std::vector<double> embedding_forward(const std::vector<double>& table, const std::vector<double>& ids,
                                             std::size_t columns, double scale = 1.0) {
  std::vector<double> y;
  y.reserve(ids.size() * columns);
  for (const double id : ids) {
    for (std::size_t c = 0; c < columns; ++c) y.push_back(scale * table[static_cast<std::size_t>(id) * columns + c]);
  }
  return y;
}

/// dtable[ids[n],:] += scale * dy[n,:].
inline void embedding_backward(std::vector<double>& dtable, const std::vector<double>& dy,
                               const std::vector<double>& ids, std::size_t columns, double scale = 1.0) {
  for (std::size_t n = 0; n < ids.size(); ++n) {
    for (std::size_t c = 0; c < columns; ++c) {
      dtable[static_cast<std::size_t>(ids[n]) * columns + c] += scale * dy[n * columns + c];
    }
  }
}

}  // namespace braise::reference
