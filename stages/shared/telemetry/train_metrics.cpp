// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/train_metrics.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"

namespace braise::telemetry {
namespace {

using nlohmann::json;

/// The speed is that of so long before: long enough to level out single steps, short enough to show a change.
constexpr std::chrono::seconds kRateWindow{10};

/// The smoothed loss remembers some 50 steps.
constexpr double kSmoothing = 0.98;

json finite_or_null(double value) {
  return std::isfinite(value) ? json(value) : json();
}

json categories_json(const MemoryPeaks& peaks) {
  json spaces = json::object();
  for (int s = 0; s < core::kSpaces; ++s) {
    json& space = spaces[std::string(core::name(static_cast<core::Space>(s)))] = json::object();
    for (int c = 0; c < core::kCategories; ++c) {
      const std::int64_t bytes = peaks.categories[static_cast<std::size_t>(s)][static_cast<std::size_t>(c)];
      if (bytes > 0) space[std::string(core::name(static_cast<core::Category>(c)))] = bytes;
    }
  }
  return spaces;
}

json phases_json(const std::vector<PhaseTotals>& ranks) {
  json mean = json::object(), max = json::object();
  for (std::size_t i = 0; i < kPhases; ++i) {
    double sum = 0, most = 0;
    for (const PhaseTotals& rank : ranks) {
      sum += rank.seconds[i];
      most = std::max(most, rank.seconds[i]);
    }
    const std::string key(name(static_cast<Phase>(i)));
    mean[key] = sum / static_cast<double>(ranks.size());
    max[key] = most;
  }
  return {{"steps", ranks.front().steps}, {"ranks", ranks.size()}, {"mean_s", mean}, {"max_s", max}};
}

}  // namespace

MemoryPeaks MemoryPeaks::of(const core::MemoryLedger& ledger) {
  MemoryPeaks peaks;
  for (std::size_t s = 0; s < core::kSpaces; ++s) {
    const auto space = static_cast<core::Space>(s);
    for (std::size_t c = 0; c < core::kCategories; ++c) {
      peaks.categories[s][c] = ledger.peak_bytes(space, static_cast<core::Category>(c));
    }
    peaks.totals[s] = ledger.total_peak_bytes(space);
  }
  return peaks;
}

void MemoryPeaks::raise_to(const MemoryPeaks& other) {
  for (std::size_t s = 0; s < core::kSpaces; ++s) {
    for (std::size_t c = 0; c < core::kCategories; ++c) {
      categories[s][c] = std::max(categories[s][c], other.categories[s][c]);
    }
    totals[s] = std::max(totals[s], other.totals[s]);
  }
}

std::string MemoryPeaks::to_text() const {
  return json{{"categories", categories}, {"totals", totals}}.dump();
}

MemoryPeaks MemoryPeaks::from_text(const std::string& text) {
  const json parsed = json::parse(text);
  MemoryPeaks peaks;
  parsed.at("categories").get_to(peaks.categories);
  parsed.at("totals").get_to(peaks.totals);
  return peaks;
}

double train_flops_per_token(std::int64_t multiplying_weights, std::int64_t layers, std::int64_t width,
                             std::int64_t sequence) {
  return 6.0 * static_cast<double>(multiplying_weights) +
         12.0 * static_cast<double>(layers) * static_cast<double>(width) * static_cast<double>(sequence);
}

TrainMetrics::TrainMetrics(const Settings& settings, const std::vector<StepLoss>& earlier, Clock::time_point now)
    : settings_(settings), step_(settings.resume_step), tokens_(settings.resume_tokens), losses_(earlier) {
  restart(now);
}

void TrainMetrics::restart(Clock::time_point now) {
  std::erase_if(losses_, [&](const StepLoss& loss) { return loss.step > step_; });
  smoothed_sum_ = smoothed_weight_ = 0;
  for (const StepLoss& loss : losses_) smooth(loss.loss);
  window_ = {{now, tokens_}};
  timed_since_ = now;
  timed_since_step_ = step_;
  told_peaks_ = {};  // what told them may be void
}

/// An exponential mean, divided by the weight that it has gathered: so the first values are no nearer to 0 than later
/// ones (Kingma and Ba, Adam, 2015, section 3). What is not finite is left out.
void TrainMetrics::smooth(double loss) {
  if (!std::isfinite(loss)) return;
  smoothed_sum_ = kSmoothing * smoothed_sum_ + (1 - kSmoothing) * loss;
  smoothed_weight_ = kSmoothing * smoothed_weight_ + (1 - kSmoothing);
}

json TrainMetrics::begin() const {
  return {{"resume_step", step_}, {"step", step_}, {"steps", settings_.steps}, {"tokens", tokens_}};
}

json TrainMetrics::roll_back(std::int64_t step, std::int64_t tokens, Clock::time_point now) {
  step_ = step;
  tokens_ = tokens;
  restart(now);
  return begin();
}

/// Tokens a second at the end of the window; 0 where no time has passed.
double TrainMetrics::rate() const {
  const double seconds = std::chrono::duration<double>(window_.back().time - window_.front().time).count();
  return seconds > 0 ? static_cast<double>(window_.back().tokens - window_.front().tokens) / seconds : 0;
}

json TrainMetrics::step(const StepValues& values, const MemoryPeaks& peaks) {
  if (values.step != step_ + 1) {
    throw core::Error("metrics of step " + std::to_string(values.step) + " come after those of step " +
                      std::to_string(step_));
  }
  step_ = values.step;
  tokens_ += values.tokens;
  losses_.push_back({step_, values.loss});
  smooth(values.loss);
  window_.push_back({values.finished, tokens_});
  while (window_.size() > 2 && window_[1].time <= values.finished - kRateWindow) window_.pop_front();

  json line = {{"step", step_},
               {"steps", settings_.steps},
               {"loss", finite_or_null(values.loss)},
               {"loss_bits", bits_text(values.loss)},
               {"lr", values.lr},
               {"tokens", tokens_},
               {"memory_peak_bytes", peaks.total_bytes()}};
  if (smoothed_weight_ > 0) line["loss_smoothed"] = smoothed_sum_ / smoothed_weight_;
  if (values.grad_norm) line["grad_norm"] = finite_or_null(*values.grad_norm);
  if (values.loss_scale) line["loss_scale"] = *values.loss_scale;
  if (values.is_skipped) line["skipped"] = true;
  if (rate() > 0) {
    line["rate"] = rate();
    line["unit"] = "tokens/s";
    if (settings_.gemm_flops > 0) line["mfu"] = rate() * settings_.flops_per_token / settings_.gemm_flops;
  }
  const double seconds = std::chrono::duration<double>(values.finished - timed_since_).count();
  line["eta_s"] = std::max(0.0, seconds) / static_cast<double>(step_ - timed_since_step_) *
                  static_cast<double>(std::max<std::int64_t>(0, settings_.steps - step_));
  if (window_.front().time == timed_since_ && step_ == timed_since_step_ + 1) {
    // The first step allocates and generates code: where there is another, the time left is reckoned without it.
    timed_since_ = values.finished;
    timed_since_step_ = step_;
  }
  if (peaks != told_peaks_) line["memory_peaks"] = categories_json(peaks);
  told_peaks_ = peaks;
  return line;
}

json TrainMetrics::validation(std::int64_t step, double loss) const {
  return {{"step", step},
          {"steps", settings_.steps},
          {"validation_loss", finite_or_null(loss)},
          {"validation_loss_bits", bits_text(loss)}};
}

json TrainMetrics::end(const std::vector<PhaseTotals>& phases, const MemoryPeaks& peaks,
                       const std::optional<Expectation>& expectation) const {
  json line = {{"step", step_},
               {"steps", settings_.steps},
               {"tokens", tokens_},
               {"memory_peak_bytes", peaks.total_bytes()},
               {"memory_peaks", categories_json(peaks)},
               {"phases", phases_json(phases)}};
  if (expectation) {
    line["expectation"] = {{"what", expectation->what},
                           {"value", finite_or_null(expectation->value)},
                           {"at_most", expectation->at_most},
                           {"met", expectation->is_met()}};
  }
  return line;
}

void add_to_events(EventFile& events, const json& line) {
  if (line.contains("resume_step")) {
    events.restart(line.at("resume_step"));
    return;
  }
  std::vector<std::pair<std::string, float>> points;
  const auto add = [&](const std::string& tag, double value) { points.emplace_back(tag, static_cast<float>(value)); };
  // A loss that is not finite is null in JSON, and still a point on TensorBoard's curve.
  if (line.contains("loss_bits")) add("train/loss", from_bits_text(line.at("loss_bits")));
  if (line.contains("validation_loss_bits")) add("validation/loss", from_bits_text(line.at("validation_loss_bits")));
  static constexpr std::pair<const char*, const char*> kTags[] = {
      {"loss_smoothed", "train/loss_smoothed"}, {"lr", "train/lr"},
      {"grad_norm", "train/grad_norm"},         {"loss_scale", "train/loss_scale"},
      {"rate", "speed/tokens_per_second"},      {"mfu", "speed/mfu"}};
  for (const auto& [key, tag] : kTags) {
    if (line.contains(key) && line.at(key).is_number()) add(tag, line.at(key));
  }
  if (line.contains("memory_peaks")) {
    add("memory/peak_bytes", line.at("memory_peak_bytes"));
    for (const auto& [space, categories] : line.at("memory_peaks").items()) {
      for (const auto& [category, bytes] : categories.items()) add("memory/" + space + "/" + category, bytes);
    }
  }
  if (points.empty()) return;
  std::vector<Scalar> scalars;
  for (const auto& [tag, value] : points) scalars.push_back({tag, value});
  events.add_scalars(line.at("step"), scalars);
}

}  // namespace braise::telemetry
