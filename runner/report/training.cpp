// SPDX-License-Identifier: Apache-2.0
#include "runner/report/training.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "runner/report/format.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "stages/shared/telemetry/phase_timer.h"

namespace braise::report {
namespace {

using nlohmann::json;

std::string share_text(double part, double whole) {
  return whole > 0 ? std::to_string(std::llround(100 * part / whole)) + " %" : "-";
}

std::string step_text(double seconds, std::int64_t steps) {
  if (steps == 0) return "-";
  const double each = seconds / static_cast<double>(steps);
  return each < 1 ? number_text(1e3 * each) + " ms" : duration_text(each);
}

}  // namespace

bool is_training(const json& latest) {
  return latest.is_object() && (latest.contains("resume_step") || latest.contains("loss_bits") ||
                                latest.contains("validation_loss_bits") || latest.contains("phases"));
}

std::string standing_text(const json& latest) {
  json standing = latest;
  for (const char* key : {"rate", "eta_s", "mfu", "lr", "grad_norm", "loss_scale"}) standing.erase(key);
  return telemetry::progress_text(standing);
}

std::string phase_table(const json& latest, const std::string& indent) {
  if (!latest.is_object() || !latest.contains("phases")) return "";
  const json& phases = latest.at("phases");
  const auto steps = phases.at("steps").get<std::int64_t>();
  const bool several = phases.at("ranks").get<int>() > 1;
  std::vector<std::string> header = {"phase", "time", "share", "a step"};
  if (several) header.emplace_back("slowest rank");
  Table table(header);
  double total = 0;
  for (const auto& [phase, seconds] : phases.at("mean_s").items()) total += seconds.get<double>();
  for (std::size_t i = 0; i < telemetry::kPhases; ++i) {
    const std::string phase(telemetry::name(static_cast<telemetry::Phase>(i)));
    const double mean = phases.at("mean_s").at(phase), max = phases.at("max_s").at(phase);
    if (max == 0) continue;
    std::vector<std::string> row = {phase, duration_text(mean), share_text(mean, total), step_text(mean, steps)};
    if (several) row.push_back(duration_text(max));
    table.add(std::move(row));
  }
  table.add({"total", duration_text(total), share_text(total, total), step_text(total, steps)});
  return table.text(indent);
}

std::string expectation_text(const json& latest) {
  if (!latest.is_object() || !latest.contains("expectation")) return "";
  const json& expectation = latest.at("expectation");
  const json& value = expectation.at("value");
  const double number = value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  return expectation.at("what").get<std::string>() + " " + number_text(number) + ", expected at most " +
         number_text(expectation.at("at_most")) + ": " + (expectation.at("met").get<bool>() ? "met" : "not met");
}

}  // namespace braise::report
