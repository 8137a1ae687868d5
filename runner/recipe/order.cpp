// SPDX-License-Identifier: Apache-2.0
#include <unordered_map>

#include "runner/recipe/recipe.h"

namespace braise::recipe {

std::vector<std::size_t> in_order(const std::vector<Stage>& stages) {
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < stages.size(); ++i) index[stages[i].name] = i;
  std::vector<std::size_t> order;
  std::vector<char> placed(stages.size(), 0);
  for (std::size_t i = 0; i < stages.size(); ++i) {
    // A stack of its own: a chain may be as long as a recipe.
    std::vector<std::size_t> waiting = {i};
    while (!waiting.empty()) {
      const std::size_t stage = waiting.back();
      const std::size_t before = waiting.size();
      const auto first = [&](const std::string& name) {
        const auto found = index.find(name);
        if (found != index.end() && placed[found->second] == 0) waiting.push_back(found->second);
      };
      if (placed[stage] == 0) {
        for (auto name = stages[stage].after.rbegin(); name != stages[stage].after.rend(); ++name) first(*name);
        const auto& references = stages[stage].references;
        for (auto entry = references.rbegin(); entry != references.rend(); ++entry) first(entry->stage);
      }
      if (waiting.size() > before) continue;
      waiting.pop_back();
      if (placed[stage] == 0) order.push_back(stage);
      placed[stage] = 1;
    }
  }
  return order;
}

}  // namespace braise::recipe
