// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "runner/report/status.h"
#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {

/// How points are held against each other.
struct Ranking {
  std::string metric;    ///< a key of metrics.jsonl; empty: `validation_loss`, or where nothing tells it `loss`
  bool highest = false;  ///< the highest value is the best, not the lowest
  bool by_last = false;  ///< what counts is the last value, not the best of all
};

/// A job of a sweep, and what it has come to.
struct Point {
  std::string job, stage, state;
  nlohmann::json parameters;  ///< as in the plan
  std::optional<telemetry::MetricValue> last, best;
  std::string attempt_dir;  ///< absolute: where its outputs are; empty where there is none
};

/// The points of a run: the jobs of every stage of which some job has told the metric.
struct Points {
  std::string metric;
  Ranking ranking;
  std::vector<Point> points;  ///< in the order of the plan

  /// The best first; points without a number at the end.
  void sort();
  /// Nothing where no point has a number.
  const Point* best() const;
};

/// What a job of another run was taken over from counts as if it had been done here, as long as that run is there.
Points read_points(const RunStatus& status, const journal::RunDirectory& run, const Ranking& ranking);

std::string points_text(const Points& points);
nlohmann::json points_json(const Points& points, const journal::RunDirectory& run);

}  // namespace braise::report
