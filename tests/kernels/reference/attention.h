// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

namespace braise::reference {

/// Sizes of one attention: B sequences, T positions, H query heads, G key heads, D a head's size.
struct AttentionSizes {
  std::size_t b;
  std::size_t t;
  std::size_t h;
  std::size_t g;
  std::size_t d;
};

/// Which weights there are, and the factor (of dropout) on each: 0 where a key is not seen or dropped.
struct AttentionRules {
  double scale = 1;
  double cap = 0;  ///< of scores; 0: none
  std::function<bool(std::size_t b, std::size_t query, std::size_t key)> sees =
      [](std::size_t, std::size_t query, std::size_t key) { return key <= query; };
  std::function<double(std::size_t b, std::size_t h, std::size_t query, std::size_t key)> keep =
      [](std::size_t, std::size_t, std::size_t, std::size_t) { return 1.0; };
};

/// Attention by its definition, whole score matrices and all. Tensors are row-major [B, T, H or G, D].
/// `*_bound` are, beside each result, the sums of magnitudes that rounding errors are proportional to.
struct Attention {
  std::vector<double> o, o_bound, log_sum;
  std::vector<double> dq, dk, dv, dq_bound, dk_bound, dv_bound;

  Attention(const AttentionSizes& s, const AttentionRules& rules, const std::vector<double>& q,
            const std::vector<double>& k, const std::vector<double>& v, const std::vector<double>& d_o = {}) {
    o.assign(q.size(), 0);
    o_bound.assign(q.size(), 0);
    log_sum.assign(s.b * s.h * s.t, 0);
    dq.assign(q.size(), 0);
    dq_bound.assign(q.size(), 0);
    dk.assign(k.size(), 0);
    dk_bound.assign(k.size(), 0);
    dv.assign(v.size(), 0);
    dv_bound.assign(v.size(), 0);
    for (std::size_t b = 0; b < s.b; ++b) {
      for (std::size_t h = 0; h < s.h; ++h) {
        for (std::size_t t = 0; t < s.t; ++t) one_query(s, rules, q, k, v, d_o, b, h, t);
      }
    }
  }

 private:
  void one_query(const AttentionSizes& s, const AttentionRules& rules, const std::vector<double>& q,
                 const std::vector<double>& k, const std::vector<double>& v, const std::vector<double>& d_o,
                 std::size_t b, std::size_t h, std::size_t t) {
    const std::size_t g = h / (s.h / s.g);
    const auto at_query = [&](std::size_t d) { return ((b * s.t + t) * s.h + h) * s.d + d; };
    const auto at_key = [&](std::size_t key, std::size_t d) { return ((b * s.t + key) * s.g + g) * s.d + d; };
    std::vector<double> score(s.t), magnitude(s.t);
    std::vector<bool> seen(s.t);
    double maximum = -INFINITY;
    double largest = 0;  // sum of magnitudes of the products in a score
    for (std::size_t key = 0; key < s.t; ++key) {
      seen[key] = rules.sees(b, t, key);
      if (!seen[key]) continue;
      for (std::size_t d = 0; d < s.d; ++d) {
        score[key] += rules.scale * q[at_query(d)] * k[at_key(key, d)];
        magnitude[key] += std::abs(rules.scale * q[at_query(d)] * k[at_key(key, d)]);
      }
      if (rules.cap > 0) score[key] = rules.cap * std::tanh(score[key] / rules.cap);
      maximum = std::max(maximum, score[key]);
      largest = std::max(largest, magnitude[key]);
    }
    double sum = 0;
    for (std::size_t key = 0; key < s.t; ++key) sum += seen[key] ? std::exp(score[key] - maximum) : 0;
    log_sum[(b * s.h + h) * s.t + t] = maximum + std::log(sum);
    std::vector<double> weight(s.t);
    for (std::size_t key = 0; key < s.t; ++key) {
      if (!seen[key]) continue;
      weight[key] = std::exp(score[key] - maximum) / sum;
      const double kept = weight[key] * rules.keep(b, h, t, key);
      for (std::size_t d = 0; d < s.d; ++d) {
        o[at_query(d)] += kept * v[at_key(key, d)];
        o_bound[at_query(d)] += kept * std::abs(v[at_key(key, d)]) * (1 + largest);
      }
    }
    if (d_o.empty()) return;
    double delta = 0;
    double delta_magnitude = 0;
    for (std::size_t d = 0; d < s.d; ++d) {
      delta += d_o[at_query(d)] * o[at_query(d)];
      delta_magnitude += std::abs(d_o[at_query(d)]) * o_bound[at_query(d)];
    }
    for (std::size_t key = 0; key < s.t; ++key) {
      if (!seen[key]) continue;
      const double factor = rules.keep(b, h, t, key);
      double dw = 0;
      double dw_magnitude = 0;
      for (std::size_t d = 0; d < s.d; ++d) {
        dw += factor * d_o[at_query(d)] * v[at_key(key, d)];
        dw_magnitude += std::abs(factor * d_o[at_query(d)] * v[at_key(key, d)]);
        dv[at_key(key, d)] += weight[key] * factor * d_o[at_query(d)];
        dv_bound[at_key(key, d)] += weight[key] * factor * std::abs(d_o[at_query(d)]) * (1 + largest);
      }
      const double slope = rules.cap > 0 ? 1 - std::pow(score[key] / rules.cap, 2) : 1;
      const double ds = weight[key] * (dw - delta) * rules.scale * slope;
      const double ds_bound = weight[key] * (dw_magnitude + delta_magnitude) * rules.scale * (1 + largest);
      for (std::size_t d = 0; d < s.d; ++d) {
        dq[at_query(d)] += ds * k[at_key(key, d)];
        dq_bound[at_query(d)] += ds_bound * std::abs(k[at_key(key, d)]);
        dk[at_key(key, d)] += ds * q[at_query(d)];
        dk_bound[at_key(key, d)] += ds_bound * std::abs(q[at_query(d)]);
      }
    }
  }
};

}  // namespace braise::reference
