// SPDX-License-Identifier: Apache-2.0
#include "tests/stages/train/layouts.h"

#include <algorithm>
#include <cstddef>
#include <set>
#include <utility>

namespace braise::test {
namespace {

using Pair = std::pair<std::string, std::string>;

/// Every two of a row's values, each with its factor.
std::vector<Pair> pairs_of(const Row& row) {
  const Layout& layout = row.layout;
  const std::vector<std::string> values{"ranks " + std::to_string(layout.ranks),
                                        "zero " + std::to_string(layout.zero),
                                        "home " + layout.home,
                                        "checkpointing " + layout.checkpointing,
                                        "pipeline " + std::to_string(layout.pipeline),
                                        "reduction " + row.reduction,
                                        row.killed ? "killed" : "straight"};
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (std::size_t j = i + 1; j < values.size(); ++j) pairs.emplace_back(values[i], values[j]);
  }
  return pairs;
}

std::set<Pair> all_pairs(const std::vector<Row>& rows) {
  std::set<Pair> all;
  for (const Row& row : rows) {
    for (Pair& pair : pairs_of(row)) all.insert(std::move(pair));
  }
  return all;
}

}  // namespace

std::string Layout::name() const {
  return std::to_string(ranks) + " ranks, zero " + std::to_string(zero) + ", " + home + ", " + checkpointing +
         ", pipeline " + std::to_string(pipeline) + ", tensor " + std::to_string(tensor);
}

std::vector<std::string> Layout::changes(bool fp32, const std::string& reduction) const {
  std::vector<std::string> changes{"resources.workers_per_node=" + std::to_string(ranks),
                                   "parallel.zero=" + std::to_string(zero),
                                   "parallel.pipeline=" + std::to_string(pipeline),
                                   "parallel.tensor=" + std::to_string(tensor),
                                   "activation_checkpointing=" + checkpointing,
                                   "offload.optimizer=" + home,
                                   "numerics.reduction=" + reduction};
  if (!fp32) changes.push_back("offload.master=" + home);
  if (zero >= 2 || reduction == "micro") changes.push_back("offload.gradients=" + home);
  if (zero == 3) changes.push_back("offload.parameters=" + home);
  if (checkpointing == "half" || checkpointing == "all") changes.push_back("offload.activations=" + home);
  return changes;
}

std::vector<Row> all_rows(int tensor) {
  std::vector<Row> rows;
  for (const std::string reduction : {"step", "micro"}) {
    for (const bool killed : {false, true}) {
      for (const int zero : {0, 1, 2, 3}) {
        for (const std::string home : {"none", "host", "nvme"}) {
          for (const std::string checkpointing : {"none", "all"}) {
            for (const int ranks : {1, 2, 4, 8}) {
              for (const int pipeline : {1, 2}) {
                rows.push_back({{ranks, zero, home, checkpointing, pipeline, tensor}, reduction, killed});
              }
            }
          }
        }
      }
    }
  }
  return rows;
}

bool is_legal(const Row& row) {
  const Layout& layout = row.layout;
  if (layout.ranks % (layout.tensor * layout.pipeline) != 0) return false;
  return layout.pipeline == 1 || layout.zero < (row.reduction == "micro" ? 2 : 3);
}

std::vector<Row> pairwise(const std::vector<Row>& rows) {
  std::set<Pair> missing = all_pairs(rows);
  std::vector<Row> taken;
  while (!missing.empty()) {
    const auto news = [&](const Row& row) {
      return std::ranges::count_if(pairs_of(row), [&](const Pair& pair) { return missing.contains(pair); });
    };
    const auto best = std::ranges::max_element(rows, {}, news);
    for (const Pair& pair : pairs_of(*best)) missing.erase(pair);
    taken.push_back(*best);
  }
  return taken;
}

std::size_t pairs(const std::vector<Row>& rows) {
  return all_pairs(rows).size();
}

}  // namespace braise::test
