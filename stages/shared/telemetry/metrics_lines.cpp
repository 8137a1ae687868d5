// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/metrics_lines.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/telemetry/quantity.h"

namespace braise::telemetry {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

bool is_step(const json& line) {
  return line.contains("loss_bits");
}
bool is_begin(const json& line) {
  return line.contains("resume_step");
}
bool is_validation(const json& line) {
  return line.contains("validation_loss_bits");
}
bool is_end(const json& line) {
  return line.contains("phases");
}

std::int64_t step_of(const json& line) {
  return line.value("step", std::int64_t{0});
}

/// Visits the lines whose text `is_wanted`.
void for_each_line(
    const std::vector<fs::path>& attempt_dirs, const std::function<void(json&&)>& visit,
    const std::function<bool(const std::string&)>& is_wanted = [](const std::string&) { return true; }) {
  for (const fs::path& attempt : attempt_dirs) {
    std::ifstream file(attempt / "metrics.jsonl", std::ios::binary);
    // A line without its newline is torn even where it happens to parse.
    for (std::string text; std::getline(file, text) && !file.eof();) {
      if (!is_wanted(text)) continue;
      json line = json::parse(text, nullptr, false);
      if (line.is_object()) visit(std::move(line));
    }
  }
}

/// Takes out what a begin line at `resume_step` voids. A fresh start does all again, what comes before step 1 too.
template <class Line, class StepOf>
void void_later(std::vector<Line>& lines, std::int64_t resume_step, StepOf step) {
  std::erase_if(lines, [&](const Line& line) { return resume_step == 0 || step(line) > resume_step; });
}

/// A figure of the progress line.
struct Part {
  int importance = 0;
  std::string text;  ///< with what separates it from the part before
};

double number(const json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : -1.0;
}

/// A loss by its bits, so that one that is not finite is shown as what it is.
std::string loss_text(const json& line, const char* key) {
  const auto bits = line.find(std::string(key) + "_bits");
  return number_text(bits != line.end() ? from_bits_text(*bits) : number(line, key));
}

std::string percent_text(double part) {
  char text[32];
  std::snprintf(text, sizeof text, part < 0.1 ? "%.1f %%" : "%.0f %%", 100 * part);
  return text;
}

std::string exponent_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2e", value);
  return text;
}

std::string rate_text(const json& line) {
  const std::string unit = line.value("unit", "");
  const std::string rate = count_text(number(line, "rate"));
  // "12.3 MB/s" rather than "12.3 M bytes/s".
  if (unit == "bytes/s") return rate + (rate.find(' ') == std::string::npos ? " B/s" : "B/s");
  return rate + " " + unit;
}

std::vector<Part> progress_parts(const json& latest) {
  std::vector<Part> parts;
  const auto add = [&](int importance, std::string text) { parts.push_back({importance, ", " + std::move(text)}); };
  const auto has = [&](const char* key) { return number(latest, key) >= 0; };
  if (has("step")) {
    std::string step = "step " + std::to_string(step_of(latest));
    if (number(latest, "steps") > 0) step += "/" + std::to_string(latest.at("steps").get<std::int64_t>());
    add(10, step);
  }
  if (is_step(latest)) {
    add(9, "loss " + loss_text(latest, "loss"));
    if (has("loss_smoothed")) parts.push_back({4, " (smoothed " + number_text(number(latest, "loss_smoothed")) + ")"});
    if (latest.value("skipped", false)) add(8, "skipped");
  }
  if (is_validation(latest)) add(5, "validation " + loss_text(latest, "validation_loss"));
  if (has("lr")) add(1, "lr " + exponent_text(number(latest, "lr")));
  if (has("grad_norm")) add(0, "grad norm " + number_text(number(latest, "grad_norm")));
  if (has("loss_scale")) add(0, "loss scale " + count_text(number(latest, "loss_scale")));
  if (number(latest, "rate") > 0) add(6, rate_text(latest));
  if (has("mfu")) add(3, "MFU " + percent_text(number(latest, "mfu")));
  if (has("memory_peak_bytes")) {
    add(2, bytes_text(latest.at("memory_peak_bytes").get<std::uint64_t>()) + " peak");
  }
  if (has("eta_s")) add(7, duration_text(number(latest, "eta_s")) + " left");
  return parts;
}

std::string joined(const std::vector<Part>& parts) {
  std::string text;
  for (const Part& part : parts) text += part.text;
  return text.empty() ? text : text.substr(2);
}

}  // namespace

std::vector<json> read_metrics(const std::vector<fs::path>& attempt_dirs) {
  std::vector<json> lines;
  for_each_line(attempt_dirs, [&](json&& line) {
    if (is_begin(line)) void_later(lines, line.at("resume_step"), step_of);
    if (is_validation(line)) {
      // An attempt may repeat the validation of the step it goes on from.
      std::erase_if(lines, [&](const json& other) { return is_validation(other) && step_of(other) == step_of(line); });
    }
    lines.push_back(std::move(line));
  });
  return lines;
}

std::optional<StepLoss> step_loss(const json& line) {
  if (!is_step(line)) return std::nullopt;
  return StepLoss{step_of(line), from_bits_text(line.at("loss_bits"))};
}

std::vector<StepLoss> read_losses(const std::vector<fs::path>& attempt_dirs) {
  std::vector<StepLoss> losses;
  for_each_line(attempt_dirs, [&](json&& line) {
    if (is_begin(line)) void_later(losses, line.at("resume_step"), [](const StepLoss& loss) { return loss.step; });
    if (const std::optional<StepLoss> loss = step_loss(line)) losses.push_back(*loss);
  });
  return losses;
}

std::vector<MetricValue> read_metric(const std::vector<fs::path>& attempt_dirs, const std::string& name) {
  std::vector<MetricValue> values;
  const std::string key = json(name).dump(-1, ' ', false, json::error_handler_t::replace);
  const auto visit = [&](json&& line) {
    if (is_begin(line)) void_later(values, line.at("resume_step"), [](const MetricValue& value) { return value.step; });
    const json& holder = line.contains(name) ? line : line.value("values", json::object());
    const auto found = holder.find(name);
    if (found == holder.end() || !(found->is_number() || found->is_null())) return;
    if (is_validation(line)) std::erase_if(values, [&](const auto& other) { return other.step == step_of(line); });
    const double value = found->is_number() ? found->get<double>() : std::numeric_limits<double>::quiet_NaN();
    values.push_back({step_of(line), value});
  };
  for_each_line(attempt_dirs, visit, [&](const std::string& text) {
    return text.find(key) != std::string::npos || text.find("\"resume_step\"") != std::string::npos;
  });
  return values;
}

std::string bits_text(double loss) {
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(std::bit_cast<std::uint64_t>(loss)));
  return text;
}

double from_bits_text(const std::string& text) {
  std::uint64_t bits = 0;
  const auto [stop, failed] = std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  if (failed != std::errc() || text.size() != 16 || stop != text.data() + text.size()) {
    throw core::Error("`" + text + "` is not the 16 hexadecimal digits of a loss");
  }
  return std::bit_cast<double>(bits);
}

void take_in(json& latest, const json& line) {
  if (!latest.is_object() || is_begin(line)) {
    latest = line;
  } else if (is_validation(line)) {
    latest.update(line);
  } else if (is_end(line)) {
    for (const char* key : {"rate", "unit", "mfu", "eta_s", "lr", "grad_norm", "loss_scale"}) latest.erase(key);
    latest.update(line);
  } else {
    json next = line;
    if (is_step(line)) {
      for (const char* key : {"validation_loss", "validation_loss_bits", "memory_peaks"}) {
        if (latest.contains(key) && !next.contains(key)) next[key] = latest[key];
      }
    }
    latest = std::move(next);
  }
}

std::string progress_text(const json& latest, std::size_t columns) {
  if (!latest.is_object()) return "";
  std::vector<Part> parts = progress_parts(latest);
  while (parts.size() > 1 && joined(parts).size() > columns) {
    parts.erase(std::min_element(parts.begin(), parts.end(),
                                 [](const Part& a, const Part& b) { return a.importance < b.importance; }));
  }
  return joined(parts);
}

}  // namespace braise::telemetry
