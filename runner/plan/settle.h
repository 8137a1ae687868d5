// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runner/plan/bind.h"

namespace braise::plan {

/// What has become of other jobs, as far as settling asks.
struct Outcomes {
  std::function<bool(const std::string& job)> is_completed;
  /// What a completed `select` job chose, the best first.
  std::function<std::vector<std::string>(const std::string& select)> selected;
};

/// The outcomes in a run's folder, of jobs of which `completed` tells what they left; null for those that are not.
Outcomes outcomes_in(const std::filesystem::path& run,
                     const std::function<const Completed*(const std::string& job)>& completed);

/// Whether a job depends on which other jobs ended well, or were chosen.
bool is_late(const Job& job);

/// A job whose candidates have ended, with what depended on that fixed: candidates that failed are left out, places
/// of choices are replaced by the jobs that were chosen. Nothing, and `why`, where too little is left: no candidate, or
/// none at its place.
std::optional<Job> settle(const Plan& plan, const Job& job, const Outcomes& outcomes, std::string& why);

/// The names in the output of a `select` job, whose attempt's folder is given. Errors: core::Error.
std::vector<std::string> read_selection(const std::filesystem::path& attempt_dir, const Completed& completed);

}  // namespace braise::plan
