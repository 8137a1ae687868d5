// SPDX-License-Identifier: Apache-2.0
#include "stages/train/parameter_rules.h"

#include <utility>

namespace braise::train {
namespace {

bool decays(const model::ParameterSpec& spec) {
  return spec.shape.rank() == 2 && spec.role != model::Role::kTokens && spec.role != model::Role::kPositions;
}

}  // namespace

bool fits(const std::string& pattern, const std::string& name) {
  // After a mismatch, the last `*` takes one character more.
  std::size_t p = 0, n = 0, star = std::string::npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<ParameterRule> parameter_rules(std::span<const model::ParameterSpec> specs,
                                           const OptimizerSettings& optimizer, std::span<const std::string> freeze,
                                           std::vector<std::string>& unused) {
  std::vector<ParameterRule> rules;
  std::vector<char> group_used(optimizer.groups.size(), 0), freeze_used(freeze.size(), 0);
  for (const model::ParameterSpec& spec : specs) {
    ParameterRule rule{false, 1, decays(spec) ? optimizer.weight_decay : 0};
    bool grouped = false;
    for (std::size_t i = 0; i < optimizer.groups.size(); ++i) {
      if (!fits(optimizer.groups[i].match, spec.name)) continue;
      group_used[i] = 1;
      if (std::exchange(grouped, true)) continue;
      rule.lr_scale = optimizer.groups[i].lr_scale;
      rule.weight_decay = optimizer.groups[i].weight_decay;
    }
    for (std::size_t i = 0; i < freeze.size(); ++i) {
      if (!fits(freeze[i], spec.name)) continue;
      freeze_used[i] = 1;
      rule.frozen = true;
    }
    rules.push_back(rule);
  }
  for (std::size_t i = 0; i < group_used.size(); ++i) {
    if (group_used[i] == 0) unused.push_back(optimizer.groups[i].match);
  }
  for (std::size_t i = 0; i < freeze_used.size(); ++i) {
    if (freeze_used[i] == 0) unused.push_back(freeze[i]);
  }
  return rules;
}

}  // namespace braise::train
