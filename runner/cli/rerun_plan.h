// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "runner/plan/plan.h"
#include "runner/report/past_run.h"

/// The plan by which a run is repeated: its own, changed in nothing that decides on bits. What cannot give the same
/// bits is a UsageError that names it.
namespace braise::cli {

/// Errors: UsageError where files that the run read from outside are not what they were.
void refuse_changed_inputs(const plan::Plan& plan, const journal::RunDirectory& run);

/// Ends every training after this step; jobs that build on one that is so cut short are left out, and trainings that
/// have no step so early. Errors: UsageError where the run has come to no such step.
void end_at(plan::Plan& plan, report::PastRun& original, std::int64_t step);

/// Fits the plan to this machine, and to so many workers a job (0: as many as it had), on the instruction-set tier that
/// its workers had. Errors: UsageError.
void adapt(plan::Plan& plan, report::PastRun& original, int workers);

}  // namespace braise::cli
