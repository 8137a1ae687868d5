// SPDX-License-Identifier: Apache-2.0
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/journal/provenance.h"
#include "runner/journal/run_directory.h"
#include "runner/launch/local.h"
#include "runner/report/live.h"
#include "runner/report/shown_outputs.h"
#include "runner/schedule/scheduler.h"
#include "stages/shared/io/file.h"
#include "stages/shared/yaml/parse.h"

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

std::vector<std::string> own_command() {
  std::vector<std::string> words;
  const std::string text = io::read_file("/proc/self/cmdline");
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\0', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

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
  }
  if (outcome == schedule::Outcome::stopped) {
    std::fprintf(stderr, "stopped; continue with: braise resume %s\n", run.path().c_str());
  }
  if (outcome != schedule::Outcome::completed) return kRunFailed;
  std::fputs(report::shown_outputs(plan, run).c_str(), stderr);
  return kSuccess;
}

/// Prints the run's folder as the last line on standard output, whatever way the run ends.
class TellsFolder {
 public:
  explicit TellsFolder(const journal::RunDirectory& run) : path_(run.path()) {}
  ~TellsFolder() {
    std::printf("%s\n", path_.c_str());
    std::fflush(stdout);
  }
  TellsFolder(const TellsFolder&) = delete;
  TellsFolder& operator=(const TellsFolder&) = delete;

 private:
  fs::path path_;
};

}  // namespace

int run(const RecipeArguments& recipe, const fs::path& runs, const RunArguments& arguments) {
  journal::sweep(runs);
  const Planned planned = plan_recipe(recipe, false);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(planned.made.plan, machine);
  journal::Provenance provenance;
  provenance.command = own_command();
  provenance.cores = static_cast<int>(machine.cores.size());
  provenance.memory_bytes = machine.memory_bytes;
  provenance.sources = planned.document.sources;
  provenance.overrides = recipe.overrides;
  provenance.environment = planned.made.first.environment;
  const journal::RunFiles files = {planned.document.sources.front().text, yaml::to_text(planned.made.first.resolved),
                                   planned.made.plan.to_json().dump(1) + "\n", journal::provenance_text(provenance)};
  const journal::CreatedRun created = journal::RunDirectory::create(runs, planned.made.plan.recipe_name, files);
  const TellsFolder tells(created.run);
  return execute(planned.made.plan, created.run, created.lock, machine, arguments);
}

int resume(const std::string& name, const fs::path& runs, const RunArguments& arguments) {
  const journal::RunDirectory run = find_run(name, runs);
  const plan::Plan plan = plan::Plan::from_json(nlohmann::json::parse(io::read_file(run.plan_file()), nullptr, false));
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(plan, machine);
  std::optional<journal::RunLock> lock;
  try {
    lock = run.lock();
  } catch (const core::Error& error) {
    throw UsageError(error.what());
  }
  const TellsFolder tells(run);
  return execute(plan, run, *lock, machine, arguments);
}

}  // namespace braise::cli
