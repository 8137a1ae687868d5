// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace braise::telemetry {

/// The lines of a job's metrics.jsonl that hold, given the folders of its attempts, oldest first: what lines before a
/// begin line say of steps later than its own is left out. Attempts without the file, and torn lines, are passed over.
std::vector<nlohmann::json> read_metrics(const std::vector<std::filesystem::path>& attempt_dirs);

/// The loss of a step of training, to the bit.
struct StepLoss {
  std::int64_t step = 0;
  double loss = 0;
};

/// The loss of a line; nothing where it tells of no step of training. Errors: as from_bits_text.
std::optional<StepLoss> step_loss(const nlohmann::json& line);

/// Of the lines that hold, the losses of steps alone: of a million steps they take 16 MB, the lines a hundred times as
/// much.
std::vector<StepLoss> read_losses(const std::vector<std::filesystem::path>& attempt_dirs);

/// A figure of a job after a step.
struct MetricValue {
  std::int64_t step = 0;
  double value = 0;  ///< may be NaN
};

/// Of the lines that hold, the values of one key, also of `values`, in order. Only lines that have it are parsed.
std::vector<MetricValue> read_metric(const std::vector<std::filesystem::path>& attempt_dirs, const std::string& name);

/// A loss as the key "..._bits" gives it, 16 hexadecimal digits of the IEEE number, and back. Errors: core::Error where
/// the text is no such number.
std::string bits_text(double loss);
double from_bits_text(const std::string& text);

/// Makes `latest` tell what is last known of a job once `line` is too: a step's line takes the place of the step's
/// before, and leaves standing what was told of validations and the end.
void take_in(nlohmann::json& latest, const nlohmann::json& line);

/// What is last known of a job, for people: "step 1200/2000, loss 1.842 (smoothed 1.871), lr 8.30e-04, grad norm 0.61,
/// 41.2 k tokens/s, MFU 38 %, 812 MiB peak, 1 min 12 s left". Of any stage kind; empty where nothing is known. What
/// matters least is left out where all would be longer than `columns`.
std::string progress_text(const nlohmann::json& latest, std::size_t columns = std::numeric_limits<std::size_t>::max());

}  // namespace braise::telemetry
