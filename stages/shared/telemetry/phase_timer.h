// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "stages/shared/telemetry/trace.h"

namespace braise::telemetry {

/// What the thread that runs the training spends its time on.
enum class Phase : std::uint8_t {
  kData,  ///< waiting for the next batch
  kForward,
  kBackward,
  kCommunication,
  kOptimizer,
  kCheckpoint,  ///< what training waits for; what overlaps it is no phase
  kValidation,
  kOther,  ///< all the rest
};
inline constexpr std::size_t kPhases = 8;

/// "data", "forward", ...: the names in metrics, traces and tables.
std::string_view name(Phase phase);

/// Wall time by phase. The phases add up to all the time since the timer began.
struct PhaseTotals {
  std::array<double, kPhases> seconds{};
  std::int64_t steps = 0;

  double of(Phase phase) const { return seconds[static_cast<std::size_t>(phase)]; }
  double total_s() const;

  /// For an exchange between ranks.
  std::string to_text() const;
  static PhaseTotals from_text(const std::string& text);
};

/// Adds up wall time by phase, on one thread. Phases nest: time belongs to the innermost one, except that all within a
/// validation or a checkpoint belongs to that. Time outside every phase is `other`.
class PhaseTimer {
 public:
  explicit PhaseTimer(Clock::time_point start = Clock::now()) : since_(start) {}

  void enter(Phase phase, Clock::time_point now);
  void leave(Clock::time_point now);
  void count_step() { ++steps_; }

  /// Of the time until now, open phases included.
  PhaseTotals totals(Clock::time_point now = Clock::now()) const;

 private:
  Phase current() const { return open_.empty() ? Phase::kOther : open_.back(); }

  void settle(Clock::time_point now);

  std::int64_t steps_ = 0;
  std::array<Clock::duration, kPhases> spent_{};
  std::vector<Phase> open_;
  Clock::time_point since_;  ///< what came before is in spent_
};

/// A rank's instruments. Neither copied nor moved.
struct Profile {
  PhaseTimer phases;
  Trace trace;
};

/// A phase of the training from construction to destruction, in the timer and, where it is on, in the trace (the
/// phase's name as category). On the thread that runs the training.
class Scope {
 public:
  /// `label` is the span's name, and must outlive the scope.
  Scope(Profile& profile, Phase phase, std::string_view label, std::initializer_list<SpanArgument> arguments = {});
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  PhaseTimer& phases_;
  Span span_;
};

}  // namespace braise::telemetry
