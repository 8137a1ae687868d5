// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace braise::reference {

/// The probabilities of the next token after temperature, top-k and top-p, by their definitions. `margin`: how far, in
/// probability, the nearest alternative place of top-p's cut was from being the right one. `argument`: the mean of
/// -log w, which says how errors of w's argument add up in sums of probabilities.
struct NextToken {
  std::vector<double> probabilities;
  double margin = 1;
  double argument = 0;
};

inline NextToken next_token(const std::vector<double>& logits, double temperature, std::size_t top_k, double top_p) {
  NextToken result;
  std::vector<double>& p = result.probabilities;
  p.assign(logits.size(), 0);
  std::vector<std::size_t> ranks(logits.size());
  std::iota(ranks.begin(), ranks.end(), std::size_t{0});
  std::stable_sort(ranks.begin(), ranks.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  if (temperature == 0) {
    p[ranks[0]] = 1;
    return result;
  }
  if (top_k > 0 && top_k < ranks.size()) ranks.resize(top_k);
  double sum = 0;
  for (const std::size_t v : ranks) sum += std::exp((logits[v] - logits[ranks[0]]) / temperature);
  for (const std::size_t v : ranks) {
    const double argument = (logits[ranks[0]] - logits[v]) / temperature;
    if (argument < 200) result.argument += argument * std::exp(-argument) / sum;
  }
  double reached = 0;
  for (const std::size_t v : ranks) {
    if (top_p < 1 && reached >= top_p) break;
    p[v] = std::exp((logits[v] - logits[ranks[0]]) / temperature) / sum;
    reached += p[v];
    if (top_p < 1) result.margin = std::min(result.margin, std::abs(reached - top_p));
  }
  for (double& each : p) each /= reached;
  return result;
}

/// The token that a uniform number chooses: the first, by id, whose cumulative probability is above it. `margin`: how
/// far the number is from what would have chosen another.
inline std::size_t chosen(const std::vector<double>& probabilities, double uniform, double& margin) {
  double sum = 0;
  std::size_t token = probabilities.size();
  margin = 1;
  for (std::size_t v = 0; v < probabilities.size(); ++v) {
    if (probabilities[v] == 0) continue;
    const double before = sum;
    sum += probabilities[v];
    if (token == probabilities.size() && sum > uniform) {
      token = v;
      margin = std::min(sum - uniform, before == 0 ? 1 : uniform - before);
    }
  }
  return token;
}

}  // namespace braise::reference
