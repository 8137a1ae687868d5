// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "runner/cli/commands.h"
#include "runner/journal/run_directory.h"
#include "runner/launch/machine.h"
#include "runner/plan/plan.h"
#include "runner/schedule/scheduler.h"

namespace braise::cli {

/// Refuses, before anything is made, what this machine can never run. Errors: UsageError.
void refuse_impossible(const plan::Plan& plan, const launch::Machine& machine);

/// What sees every line of metrics.jsonl as it comes; false: all jobs are to stop.
using Watch = std::function<bool(const journal::AttemptName& attempt, const nlohmann::json& line)>;

/// Runs what is left of a plan in front of a person: shows how it goes on standard error, takes Ctrl-C, and tells what
/// failed. `watch` may be empty.
schedule::Outcome execute(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                          const launch::Machine& machine, const RunArguments& arguments, const Watch& watch = {});

}  // namespace braise::cli
