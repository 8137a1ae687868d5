// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/capacity.h"

#include <algorithm>

namespace braise::schedule {

std::uint64_t memory_of_rank(const stages::Resources& resources) {
  return resources.host_memory_bytes + (resources.device == "cpu" ? resources.device_memory_bytes : 0);
}

std::uint64_t memory_of(const stages::Resources& resources) {
  return static_cast<std::uint64_t>(resources.ranks()) * memory_of_rank(resources);
}

std::optional<Share> Capacity::take(const stages::Resources& resources) {
  const std::size_t wanted = static_cast<std::size_t>(resources.ranks()) * static_cast<std::size_t>(resources.threads);
  const std::size_t cores = std::min(wanted, total_.cores.size());
  const std::uint64_t memory = memory_of(resources);
  if (free_.cores.size() < cores || free_.memory_bytes < memory) return std::nullopt;
  Share share;
  const auto end = free_.cores.begin() + static_cast<std::ptrdiff_t>(cores);
  share.cores.assign(free_.cores.begin(), end);
  free_.cores.erase(free_.cores.begin(), end);
  share.memory_bytes = memory;
  share.oversubscribed = wanted > cores;
  free_.memory_bytes -= memory;
  return share;
}

void Capacity::give_back(Share share) {
  free_.memory_bytes += share.memory_bytes;
  free_.cores.insert(free_.cores.end(), share.cores.begin(), share.cores.end());
  std::sort(free_.cores.begin(), free_.cores.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
}

}  // namespace braise::schedule
