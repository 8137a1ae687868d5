// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "runner/launch/slurm/client.h"
#include "runner/launch/slurm/groups.h"
#include "runner/plan/plan.h"
#include "runner/recipe/site.h"
#include "runner/schedule/scheduler.h"

namespace braise::schedule {

/// A group that Slurm has taken.
struct Submitted {
  launch::slurm::Group group;
  std::string slurm_job;
};

/// Gives what is left of a plan to Slurm: takes over what an equal job of another run has left (unless
/// `options.fresh`), writes a script for each group of jobs and submits it. `program` is braise itself. Gives what was
/// submitted, in that order: nothing where nothing is left. Where Slurm refuses one, those before it are cancelled.
/// Errors: core::Error with Slurm's words; the run can be resumed.
std::vector<Submitted> submit_plan(const plan::Plan& plan, const journal::RunDirectory& run,
                                   const journal::RunLock& lock, const recipe::Site& site,
                                   const launch::slurm::Client& client, const std::filesystem::path& program,
                                   const Options& options, Observer& observer);

}  // namespace braise::schedule
