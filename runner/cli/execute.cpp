// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/execute.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "runner/cli/new_run.h"
#include "runner/launch/local.h"
#include "runner/report/live.h"

namespace braise::cli {
namespace {

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

/// Shows how it goes, and asks what it is told whether to go on.
class WatchedDisplay : public report::LiveDisplay {
 public:
  WatchedDisplay(bool is_terminal, int columns, const Watch& watch, schedule::StopSignal& stop)
      : LiveDisplay(stderr, is_terminal, columns), watch_(watch), stop_(stop) {}

  void metrics(const journal::AttemptName& attempt, const nlohmann::json& line) override {
    LiveDisplay::metrics(attempt, line);
    if (!watch_ || stopping_ || watch_(attempt, line)) return;
    stopping_ = true;
    stop_.ask();
  }

 private:
  const Watch& watch_;
  schedule::StopSignal& stop_;
  bool stopping_ = false;
};

}  // namespace

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

schedule::Outcome execute(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                          const launch::Machine& machine, const RunArguments& arguments, const Watch& watch) {
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
  WatchedDisplay display(is_terminal, size.ws_col, watch, stop);
  const schedule::Outcome outcome = schedule::run_plan(plan, run, lock, launcher, machine, options, display, stop);
  for (const auto& [job, reason] : display.failures()) {
    std::fprintf(stderr, "%s failed; its logs: braise logs %s %s\n", job.c_str(), run.path().c_str(), job.c_str());
  }
  if (!display.failures().empty() && plan.jobs.size() > 1) {
    std::fprintf(stderr, "%zu of %zu jobs failed; to try them again: braise resume %s\n", display.failures().size(),
                 plan.jobs.size(), run.path().c_str());
  }
  return outcome;
}

}  // namespace braise::cli
