// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/ledger.h"
#include "stages/shared/telemetry/event_file.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "stages/shared/telemetry/phase_timer.h"

namespace braise::telemetry {

/// The most memory that was held at one time, by space and category, as the ledger counts it.
struct MemoryPeaks {
  std::array<std::array<std::int64_t, core::kCategories>, core::kSpaces> categories{};
  std::array<std::int64_t, core::kSpaces> totals{};  ///< of one instant, so less than the categories' sum

  static MemoryPeaks of(const core::MemoryLedger& ledger);
  /// The greater of each figure: of several ranks, the rank that needs most.
  void raise_to(const MemoryPeaks& other);
  std::int64_t total_bytes() const { return totals[0] + totals[1]; }
  bool operator==(const MemoryPeaks&) const = default;

  /// For an exchange between ranks.
  std::string to_text() const;
  static MemoryPeaks from_text(const std::string& text);
};

/// What a step of training gave, over all ranks.
struct StepValues {
  std::int64_t step = 0;             ///< steps finished, this one included: the first is 1
  double loss = 0;                   ///< mean over the tokens of the step's batch; may be NaN
  double lr = 0;                     ///< of the first parameter group
  std::optional<double> grad_norm;   ///< before clipping
  std::int64_t tokens = 0;           ///< that the step trained on
  std::optional<double> loss_scale;  ///< fp16
  bool is_skipped = false;           ///< no weight was changed: a gradient was not finite
  Clock::time_point finished = Clock::now();
};

/// What a job was expected to reach, and did.
struct Expectation {
  std::string what;  ///< "validation loss"
  double value = 0;
  double at_most = 0;
  bool is_met() const { return value <= at_most; }
};

/// FLOPs of training on one token: 6 for each weight that multiplies (forward 2, backward 4; embeddings that are looked
/// up do not count, a tied head does), and 12 layers width sequence for attention. `width` is heads times head size.
/// Source: Chowdhery et al., PaLM (2022), appendix B.
double train_flops_per_token(std::int64_t multiplying_weights, std::int64_t layers, std::int64_t width,
                             std::int64_t sequence);

/// Makes the lines of metrics.jsonl of a training job (schemas/metrics.schema.json), on the rank that tells of the job.
/// Each goes to StageContext::metric and to add_to_events.
///
/// A begin line stands before all others and after every return to an earlier step: what lines before it, in this file
/// or an earlier attempt's, say of later steps is void (read_metrics leaves it out). So every step is told exactly
/// once, however often the job was killed.
class TrainMetrics {
 public:
  struct Settings {
    std::int64_t steps = 0;          ///< in all
    double flops_per_token = 0;      ///< see train_flops_per_token
    double gemm_flops = 0;           ///< operations a second that all ranks together reach in matrix products
    std::int64_t resume_step = 0;    ///< that of the checkpoint which training goes on from; 0 at a fresh start
    std::int64_t resume_tokens = 0;  ///< trained on by then
  };

  /// `earlier`: read_losses of the earlier attempts; the smoothed loss goes on from them.
  explicit TrainMetrics(const Settings& settings, const std::vector<StepLoss>& earlier = {},
                        Clock::time_point now = Clock::now());

  /// The first line of an attempt.
  nlohmann::json begin() const;

  /// Training goes back to an earlier step of this attempt; gives the begin line that says so.
  nlohmann::json roll_back(std::int64_t step, std::int64_t tokens, Clock::time_point now = Clock::now());

  /// The line of a step. Steps come in order. Memory by category is told where it has changed.
  nlohmann::json step(const StepValues& values, const MemoryPeaks& peaks);

  /// The line of a validation after `step` steps.
  nlohmann::json validation(std::int64_t step, double loss) const;

  /// The line of an attempt's end, completed or stopped, with the ranks' phases, by rank.
  nlohmann::json end(const std::vector<PhaseTotals>& phases, const MemoryPeaks& peaks,
                     const std::optional<Expectation>& expectation = {}) const;

 private:
  struct Mark {
    Clock::time_point time;
    std::int64_t tokens;
  };

  void restart(Clock::time_point now);
  void smooth(double loss);
  double rate() const;

  Settings settings_;
  std::int64_t step_;             ///< finished
  std::int64_t tokens_;           ///< trained on
  std::vector<StepLoss> losses_;  ///< up to step_: a return to an earlier one smooths them anew
  double smoothed_sum_ = 0;
  double smoothed_weight_ = 0;
  std::deque<Mark> window_;        ///< ends of the last steps
  Clock::time_point timed_since_;  ///< the time left is reckoned from the steps since then
  std::int64_t timed_since_step_ = 0;
  MemoryPeaks told_peaks_;
};

/// Puts what a line of metrics says into the event file: numbers on curves ("train/loss", "validation/loss", ...), a
/// begin line as a restart.
void add_to_events(EventFile& events, const nlohmann::json& line);

}  // namespace braise::telemetry
