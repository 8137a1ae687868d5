// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/commands.h"
#include "runner/cli/execute.h"
#include "runner/cli/new_run.h"
#include "runner/journal/replay.h"
#include "runner/journal/run_files.h"
#include "runner/report/shown_outputs.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

int run_in_front(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                 const launch::Machine& machine, const RunArguments& arguments) {
  const schedule::Outcome outcome = execute(plan, run, lock, machine, arguments);
  if (outcome == schedule::Outcome::stopped) {
    std::fprintf(stderr, "stopped; continue with: braise resume %s\n", run.path().c_str());
  }
  if (outcome != schedule::Outcome::completed) return kRunFailed;
  std::fputs(report::shown_outputs(plan, run).c_str(), stderr);
  return kSuccess;
}

}  // namespace

int run(const RecipeArguments& recipe, const fs::path& runs, const RunArguments& arguments) {
  journal::sweep(runs);
  const Planned planned = plan_recipe(recipe, false);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(planned.made.plan, machine);
  const journal::CreatedRun created = create_run(recipe, planned, runs);
  const TellsFolder tells(created.run);
  return run_in_front(planned.made.plan, created.run, created.lock, machine, arguments);
}

int resume(const std::string& name, const fs::path& runs, const RunArguments& arguments, const fs::path& site) {
  const journal::RunDirectory run = find_run(name, runs);
  const std::vector<journal::Session> sessions = journal::replay(run).sessions;
  if (!sessions.empty() && sessions.back().submitted) return resubmit(run, site);
  if (!site.empty()) throw UsageError("the run " + run.id() + " was not submitted to Slurm, so --site means nothing");
  const plan::Plan plan = journal::read_plan(run);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(plan, machine);
  const journal::RunLock lock = take_run(run);
  const TellsFolder tells(run);
  return run_in_front(plan, run, lock, machine, arguments);
}

}  // namespace braise::cli
