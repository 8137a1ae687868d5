// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <vector>

#include "runner/plan/plan.h"
#include "runner/report/plan_text.h"

namespace braise::report {

/// Whether each job of a plan would run now, given what the runs in `runs_dir` finished, and why; in the plan's order.
/// A job that would run is compared with the same job of the latest run of the recipe, to tell what has changed.
std::vector<Decision> decide(const plan::Plan& plan, const std::filesystem::path& runs_dir, bool fresh);

}  // namespace braise::report
