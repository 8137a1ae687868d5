// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "runner/journal/replay.h"
#include "runner/journal/run_directory.h"
#include "runner/plan/plan.h"

namespace braise::report {

/// How a run stands, from its plan and its journal.
struct RunStatus {
  std::string id;
  std::string recipe;
  /// "running"; "completed" (every job finished), "failed", "stopped"; "interrupted": its runner was killed.
  std::string state;
  std::int64_t started_us = 0;
  std::int64_t ended_us = 0;          ///< 0: running or not known
  std::map<std::string, int> counts;  ///< jobs by state
  plan::Plan plan;
  journal::RunState journal;
};

/// Errors: core::Error where the plan cannot be read.
RunStatus read_status(const journal::RunDirectory& run);

/// What an attempt last told in its metrics.jsonl (telemetry::take_in); null where it told nothing.
nlohmann::json latest_metrics(const std::filesystem::path& attempt_dir);

std::string status_text(const RunStatus& status, const journal::RunDirectory& run);
nlohmann::json status_json(const RunStatus& status, const journal::RunDirectory& run);

}  // namespace braise::report
