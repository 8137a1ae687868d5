// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "stages/api/descriptor.h"

namespace braise::train {

/// The cheapest way to spread the training of a stage's configuration over these resources that fits their memory: its
/// ZeRO stage, what is offloaded, which activations are computed again, and, where nothing else helps, the micro-batch.
/// Nothing where the model is not known before the run. The tensor and pipeline axes stay as they are.
std::optional<stages::Fit> fit(const nlohmann::json& config, const stages::Resources& resources,
                               const stages::KnownModels& models);

}  // namespace braise::train
