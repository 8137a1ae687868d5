// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/ledger.h"
#include "stages/shared/telemetry/event_file.h"
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

/// Makes the lines of metrics.jsonl of a training job (schemas/metrics.schema.json), each to be handed to
/// StageContext::metric. On the rank that tells of the job.
///
/// A begin line stands before all others and after every return to an earlier step: lines of later steps that stand
/// before it, in this file or an earlier attempt's, are void (read_metrics leaves them out). So every step is told
/// exactly once however often the job was killed.
class TrainMetrics {
 public:
  struct Settings {
    std::int64_t steps = 0;          ///< in all
    double flops_per_token = 0;      ///< see train_flops_per_token
    double gemm_flops = 0;           ///< operations a second that all ranks together reach in matrix products
    std::int64_t resume_step = 0;    ///< the step of the checkpoint that training goes on from; 0 at a fresh start
    std::int64_t resume_tokens = 0;  ///< trained on by then
  };

  /// `earlier`: read_metrics of the earlier attempts, from which the smoothed loss goes on.
  TrainMetrics(const Settings& settings, const std::vector<nlohmann::json>& earlier,
               Clock::time_point now = Clock::now());

  /// The first line of an attempt.
  nlohmann::json begin() const;

  /// Goes back to an earlier step of this attempt (`on_nan: rollback`); gives the line that says so.
  nlohmann::json roll_back(std::int64_t step, std::int64_t tokens);

  /// The line of a step. Memory by category is told where it has changed.
  nlohmann::json step(const StepValues& values, const MemoryPeaks& peaks);

  /// The line of a validation after `step` steps.
  nlohmann::json validation(std::int64_t step, double loss) const;

  /// The line of an attempt's end, completed or stopped, with each rank's phases, by rank.
  nlohmann::json end(std::int64_t step, const std::vector<PhaseTotals>& phases, const MemoryPeaks& peaks,
                     const std::optional<Expectation>& expectation) const;

 private:
  struct Mark {
    Clock::time_point time;
    std::int64_t tokens;  ///< in all
  };

  Settings settings_;
  std::int64_t tokens_;
  std::vector<std::pair<std::int64_t, double>> losses_;  ///< by step: a return to an earlier one smooths them anew
  double smoothed_ = 0, smoothed_weight_ = 0;
  std::deque<Mark> window_;
  Clock::time_point first_finished_;
  std::int64_t first_step_ = 0;
  MemoryPeaks told_peaks_;
};

/// Puts the numbers of a line of metrics on TensorBoard's curves ("train/loss", "validation/loss", ...).
void add_to_events(EventFile& events, const nlohmann::json& line);

/// A line of metrics for people: "step 1200/2000, loss 1.842 (smoothed 1.871), lr 8.30e-04, grad norm 0.61, 41.2 k
/// tokens/s, MFU 38 %, 812 MiB peak, 1 min 12 s left". Of the figures, those the line has; for lines of any stage kind.
std::string progress_text(const nlohmann::json& line);

/// The lines of metrics.jsonl of a job's attempts, oldest first: those that hold. A begin line at step s voids all
/// lines before it of later steps. Attempts without the file, and torn lines, are passed over.
std::vector<nlohmann::json> read_metrics(const std::vector<std::filesystem::path>& attempt_dirs);

/// The table of time by phase of an end line; empty where it has none.
std::string phase_table(const nlohmann::json& line);

}  // namespace braise::telemetry
