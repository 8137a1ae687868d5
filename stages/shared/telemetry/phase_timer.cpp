// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/phase_timer.h"

#include <nlohmann/json.hpp>
#include <numeric>

namespace braise::telemetry {

std::string_view name(Phase phase) {
  static constexpr std::array<std::string_view, kPhases> kNames = {
      "data", "forward", "backward", "communication", "optimizer", "checkpoint", "validation", "other"};
  return kNames[static_cast<std::size_t>(phase)];
}

double PhaseTotals::total_s() const {
  return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}

std::string PhaseTotals::to_text() const {
  return nlohmann::json{{"seconds", seconds}, {"steps", steps}}.dump();
}

PhaseTotals PhaseTotals::from_text(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  return {json.at("seconds").get<std::array<double, kPhases>>(), json.at("steps").get<std::int64_t>()};
}

void PhaseTimer::settle(Clock::time_point now) {
  spent_[static_cast<std::size_t>(current())] += now - since_;
  since_ = now;
}

void PhaseTimer::enter(Phase phase, Clock::time_point now) {
  settle(now);
  const bool is_part = current() == Phase::kValidation || current() == Phase::kCheckpoint;
  open_.push_back(is_part ? current() : phase);
}

void PhaseTimer::leave(Clock::time_point now) {
  settle(now);
  open_.pop_back();
}

PhaseTotals PhaseTimer::totals(Clock::time_point now) const {
  PhaseTimer copy = *this;
  copy.settle(now);
  PhaseTotals totals;
  for (std::size_t i = 0; i < kPhases; ++i) {
    totals.seconds[i] = std::chrono::duration<double>(copy.spent_[i]).count();
  }
  totals.steps = steps_;
  return totals;
}

Scope::Scope(Profile& profile, Phase phase, std::string_view label, std::initializer_list<SpanArgument> arguments)
    : phases_(profile.phases), span_(profile.trace, name(phase), label, arguments) {
  phases_.enter(phase, Clock::now());
}

Scope::~Scope() {
  phases_.leave(Clock::now());
}

}  // namespace braise::telemetry
