// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::report {

/// Whether what is last known of a job (telemetry::take_in) is of training.
bool is_training(const nlohmann::json& latest);

/// Where training that goes on no more stands: "step 2000/2000, loss 1.620 (smoothed 1.640), validation 1.840".
std::string standing_text(const nlohmann::json& latest);

/// The wall time of an attempt by phase, as a table; empty where its end was not told.
std::string phase_table(const nlohmann::json& latest, const std::string& indent);

/// "validation loss 1.840, expected at most 2.000: met"; empty where nothing was expected.
std::string expectation_text(const nlohmann::json& latest);

}  // namespace braise::report
