// SPDX-License-Identifier: Apache-2.0
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/journal/replay.h"
#include "runner/launch/local.h"
#include "runner/report/live.h"
#include "runner/report/shown_outputs.h"
#include "runner/schedule/scheduler.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

schedule::StopSignal* asked_to_stop = nullptr;

/// Lets Ctrl-C and TERM ask the scheduler to stop while this lives.
class SignalsAskToStop {
 public:
  explicit SignalsAskToStop(schedule::StopSignal& stop) {
    asked_to_stop = &stop;
    struct sigaction action {};
    action.sa_handler = [](int) { asked_to_stop->ask(); };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, nullptr);
    ::sigaction(SIGTERM, &action, nullptr);
    ::sigaction(SIGHUP, &action, nullptr);
  }
  ~SignalsAskToStop() {
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, SIG_DFL);
    asked_to_stop = nullptr;
  }
  SignalsAskToStop(const SignalsAskToStop&) = delete;
  SignalsAskToStop& operator=(const SignalsAskToStop&) = delete;
};

/// Refuses, before anything is made, what this machine can never run.
void refuse_impossible(const plan::Plan& plan, const launch::Machine& machine) {
  std::string text;
  for (const plan::Job& job : plan.jobs) {
    if (job.spec.resources.nodes > 1) {
      text += "\n  " + job.spec.job + " wants " + std::to_string(job.spec.resources.nodes) +
              " nodes, and this machine is one; set resources.nodes to 1";
    }
  }
  for (const std::string& refusal : schedule::refusals(plan, machine)) text += "\n  " + refusal;
  if (!text.empty()) throw UsageError("this machine cannot run the recipe:" + text);
}

int execute(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
            const launch::Machine& machine, const RunArguments& arguments) {
  schedule::Options options;
  options.worker = worker_program();
  options.command = own_command();
  options.fresh = arguments.fresh;
  options.fail_fast = arguments.fail_fast;
  winsize size{};
  const bool is_terminal = ::isatty(STDERR_FILENO) != 0 && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0;
  schedule::StopSignal stop;
  const SignalsAskToStop signals(stop);
  launch::LocalLauncher launcher;
  schedule::Outcome outcome;
  {
    report::LiveDisplay display(stderr, is_terminal, size.ws_col);
    outcome = schedule::run_plan(plan, run, lock, launcher, machine, options, display, stop);
    for (const auto& [job, reason] : display.failures()) {
      std::fprintf(stderr, "%s failed; its logs: braise logs %s %s\n", job.c_str(), run.path().c_str(), job.c_str());
    }
    if (!display.failures().empty() && plan.jobs.size() > 1) {
      std::fprintf(stderr, "%zu of %zu jobs failed; to try them again: braise resume %s\n", display.failures().size(),
                   plan.jobs.size(), run.path().c_str());
    }
  }
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
  return execute(planned.made.plan, created.run, created.lock, machine, arguments);
}

int resume(const std::string& name, const fs::path& runs, const RunArguments& arguments, const fs::path& site) {
  const journal::RunDirectory run = find_run(name, runs);
  const std::vector<journal::Session> sessions = journal::replay(run).sessions;
  if (!sessions.empty() && sessions.back().submitted) return resubmit(run, site);
  if (!site.empty()) throw UsageError("the run " + run.id() + " was not submitted to Slurm, so --site means nothing");
  const plan::Plan plan = read_plan(run);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(plan, machine);
  const journal::RunLock lock = take_run(run);
  const TellsFolder tells(run);
  return execute(plan, run, lock, machine, arguments);
}

}  // namespace braise::cli
