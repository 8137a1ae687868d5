// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "kernels/comm/groups.h"
#include "kernels/core/ledger.h"
#include "stages/api/descriptor.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/recipe.h"
#include "stages/train/settings.h"

namespace braise::train {

/// The model that the keys of a stage describe, or that lies where they say; nothing where `problems` say why there can
/// be none. `vocabulary`: of the data.
std::optional<model::Config> described_model(const nlohmann::json& config, std::int64_t vocabulary,
                                             std::vector<model::RecipeProblem>& problems);

/// The same before anything has run: nothing too where the model is what another stage will leave and is not among
/// `models`, or is not there. A
/// vocabulary that only the data will tell is taken to be that of bytes.
std::optional<model::Config> known_model(const nlohmann::json& config, const stages::KnownModels& models,
                                         std::vector<model::RecipeProblem>& problems);

/// What one rank of a training holds at most, and what it sends.
struct RankMemory {
  using Peaks = std::array<std::int64_t, core::kCategories>;
  Peaks device{};  ///< bytes by category, in the device's arena
  Peaks host{};
  std::int64_t disk = 0;           ///< bytes of the scratch file
  std::int64_t sent_per_step = 0;  ///< bytes to other ranks of the data axis, of gradients and parameters
  std::int64_t sent_to_tensor = 0, sent_to_stages = 0;  ///< the same on the other axes, of activations

  std::int64_t& at(core::Space space, core::Category category) {
    return (space == core::Space::kDevice ? device : host)[static_cast<std::size_t>(category)];
  }
};

/// The memory of one rank, by going through the passes of a step in their order, as Decoder, Values, Gradients and
/// OptimizerState do. `data_ranks`: of the data axis. `threads`: of the rank.
RankMemory rank_memory(const model::Config& config, const Settings& settings, const Lanes& lanes,
                       const comm::Groups::Place& place, int data_ranks, int threads);

/// The most that any rank holds of each category.
RankMemory most_memory(const model::Config& config, const Settings& settings, const Lanes& lanes, int data_ranks,
                       int threads);

}  // namespace braise::train
