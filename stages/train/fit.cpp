// SPDX-License-Identifier: Apache-2.0
#include "stages/train/fit.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "stages/shared/model/recipe.h"
#include "stages/train/memory.h"

namespace braise::train {
namespace {

using nlohmann::json;

/// Keys of the stage that a layout sets.
constexpr const char* kZero = "/parallel/zero";
constexpr const char* kCheckpointing = "/activation_checkpointing";
constexpr const char* kOptimizer = "/offload/optimizer";
constexpr const char* kMaster = "/offload/master";
constexpr const char* kGradients = "/offload/gradients";
constexpr const char* kParameters = "/offload/parameters";
constexpr const char* kActivations = "/offload/activations";
constexpr const char* kMicro = "/batch/micro";

// A part of the device's memory is left for what an arena has in pieces that are too small to be used.
constexpr std::uint64_t kSlack = 8;

struct Change {
  const char* key;
  json value;
  double cost;  ///< what a step takes longer, about: 0.33 where all forward passes are done twice
  const char* why;
};

/// What may be done about each of several things, the recipe's own way first.
using Ways = std::vector<std::vector<Change>>;

/// Costs are of arithmetic and of bytes that move; they order layouts, and are no prediction of time.
Ways ways(const json& config, const Settings& settings, int ranks) {
  Ways ways;
  const auto add = [&](const char* key, std::vector<Change> others) {
    std::vector<Change> ways_of_one{{key, config.at(json::json_pointer(key)), 0, ""}};
    for (Change& other : others) {
      if (other.value != ways_of_one.front().value) ways_of_one.push_back(std::move(other));
    }
    ways.push_back(std::move(ways_of_one));
  };
  std::vector<Change> stages;
  if (ranks > 1) {
    stages.push_back({kZero, 1, 0.001, "each rank updates its share of the weights"});
    stages.push_back({kZero, 2, 0.002, "and holds its share of the gradients"});
  }
  stages.push_back({kZero, 3, ranks > 1 ? 0.06 : 0.01, "and of the parameters, which are gathered for their use"});
  add(kZero, std::move(stages));
  add(kCheckpointing, {{kCheckpointing, "attention", 0.05, "attention is computed again in the backward pass"},
                       {kCheckpointing, "half", 0.17, "every second block is computed again in the backward pass"},
                       {kCheckpointing, "all", 0.33, "every block is computed again in the backward pass"}});
  const auto homes = [&](const char* key, double host, double disk, const char* why) {
    std::vector<Change> others{{key, "host", host, why}};
    others.push_back({key, "nvme", disk, why});
    add(key, std::move(others));
  };
  if (settings.optimizer.state_tensors() > 0) homes(kOptimizer, 0.02, 0.12, "the step works through it in chunks");
  if (settings.compute != core::Dtype::kFloat32) homes(kMaster, 0.01, 0.06, "the step works through them in chunks");
  homes(kGradients, 0.01, 0.05, "they are kept where the step reads them once");
  homes(kParameters, 0.04, 0.2, "each unit comes as it is needed");
  homes(kActivations, 0.02, 0.1, "inputs of blocks come back as the backward pass needs them");
  std::vector<Change> micro;
  double cost = 0;
  for (std::int64_t size = settings.micro; size % 2 == 0 && size > 1;) {
    size /= 2;
    micro.push_back({kMicro, size, cost += 0.4, "fewer activations at once; the bits are others"});
  }
  add(kMicro, std::move(micro));
  return ways;
}

/// Whether the keys go together, as the rules of the stage ask.
bool goes_together(const Settings& settings) {
  const bool apart = settings.zero >= 2 || settings.reduction == Reduction::kMicro;
  return (apart || settings.offload.gradients == Home::kDevice) &&
         (settings.zero == 3 || settings.offload.parameters == Home::kDevice) &&
         (settings.pipeline == 1 || settings.zero < 2 ||
          (settings.zero == 2 && settings.reduction == Reduction::kStep)) &&
         (settings.recomputes_blocks() || settings.offload.activations == Home::kDevice);
}

std::uint64_t sum(const RankMemory::Peaks& peaks) {
  return static_cast<std::uint64_t>(std::accumulate(peaks.begin(), peaks.end(), std::int64_t{0}));
}

struct Need {
  std::uint64_t device = 0, host = 0, disk = 0;
  std::uint64_t gaps() const { return device / kSlack; }
};

class Search {
 public:
  Search(const json& config, const model::Config& model, const stages::Resources& resources, int data_ranks)
      : config_(config), model_(model), resources_(resources), data_ranks_(data_ranks) {}

  /// What a configuration needs; nothing where it cannot be.
  std::optional<Need> need(const json& config) const {
    const Settings settings(config);
    if (!goes_together(settings)) return std::nullopt;
    std::string key, problem, remedy;
    const std::optional<Lanes> lanes =
        deal(settings.global, settings.micro, settings.lanes, data_ranks_, key, problem, remedy);
    if (!lanes) return std::nullopt;
    const RankMemory memory = most_memory(model_, settings, *lanes, data_ranks_, resources_.threads);
    return Need{sum(memory.device), sum(memory.host), static_cast<std::uint64_t>(memory.disk)};
  }

  bool fits(const Need& need) const {
    const auto within = [](std::uint64_t bytes, std::uint64_t budget) { return budget == 0 || bytes <= budget; };
    return within(need.device + need.gaps(), resources_.device_memory_bytes) &&
           within(need.host, resources_.host_memory_bytes);
  }

  stages::Fit run() {
    const Ways all = ways(config_, Settings(config_), data_ranks_);
    // All combinations, cheapest first.
    struct Layout {
      double cost = 0;
      std::vector<std::size_t> chosen;
    };
    std::vector<Layout> layouts{{}};
    for (const std::vector<Change>& one : all) {
      std::vector<Layout> longer;
      for (const Layout& layout : layouts) {
        for (std::size_t i = 0; i < one.size(); ++i) {
          longer.push_back(layout);
          longer.back().cost += one[i].cost;
          longer.back().chosen.push_back(i);
        }
      }
      layouts = std::move(longer);
    }
    std::ranges::stable_sort(layouts, {}, &Layout::cost);
    const auto with = [&](const std::vector<std::size_t>& chosen) {
      json config = config_;
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        config[json::json_pointer(all[i][chosen[i]].key)] = all[i][chosen[i]].value;
      }
      return config;
    };
    stages::Fit result;
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (const Layout& layout : layouts) {
      const std::optional<Need> found = need(with(layout.chosen));
      if (!found) continue;
      if (found->device < least) {
        least = found->device;
        result.device_bytes = found->device;
        result.host_bytes = found->host;
        result.disk_bytes = found->disk;
        result.gap_bytes = found->gaps();
      }
      if (!fits(*found)) continue;
      result = {true, found->device, found->host, found->disk, found->gaps(), {}};
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (layout.chosen[i] == 0) continue;
        const Change& change = all[i][layout.chosen[i]];
        std::vector<std::size_t> without = layout.chosen;
        without[i] = 0;
        const std::optional<Need> more = need(with(without));
        std::string key = change.key + 1;
        std::ranges::replace(key, '/', '.');
        result.changes.push_back({std::move(key),
                                  change.value.is_string() ? change.value.get<std::string>() : change.value.dump(),
                                  change.why, more && more->device > found->device ? more->device - found->device : 0});
      }
      break;
    }
    return result;
  }

 private:
  const json& config_;
  const model::Config& model_;
  const stages::Resources& resources_;
  const int data_ranks_;
};

}  // namespace

std::optional<stages::Fit> fit(const json& config, const stages::Resources& resources,
                               const stages::KnownModels& models) {
  std::vector<model::RecipeProblem> problems;
  const std::optional<model::Config> model = known_model(config, models, problems);
  const Settings settings(config);
  const int parts = settings.tensor * settings.pipeline;
  if (!model || resources.ranks() % parts != 0) return std::nullopt;
  return Search(config, *model, resources, resources.ranks() / parts).run();
}

}  // namespace braise::train
