// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/journal/run_files.h"
#include "runner/launch/command.h"
#include "runner/launch/slurm/allocation.h"
#include "runner/launch/slurm/client.h"
#include "runner/launch/slurm/submission.h"
#include "runner/report/live.h"
#include "runner/schedule/supervisor.h"

extern char** environ;

namespace braise::cli {
namespace {
namespace fs = std::filesystem;
namespace slurm = launch::slurm;

/// How long an attempt may wait for Slurm to tell when its time ends: without it, USR1 tells in time.
constexpr auto kEndPatience = std::chrono::seconds(20);

/// Within this time Slurm ends a job that was requeued, and its supervisor with it.
constexpr auto kExcludePatience = std::chrono::seconds(20);

schedule::SupervisorSignals* signals_taken = nullptr;

void on_signal(int number) {
  const int saved = errno;
  if (number == SIGUSR1) signals_taken->time_up.ask();
  if (number == SIGTERM) signals_taken->terminate.ask();
  if (number == SIGUSR2) signals_taken->stop.ask();
  errno = saved;
}

/// Takes Slurm's signals for as long as this process lives.
void take_signals(schedule::SupervisorSignals& signals) {
  signals_taken = &signals;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGUSR1, SIGTERM, SIGUSR2}) ::sigaction(number, &action, nullptr);
}

/// Runs the site's last lines of shell, once.
class Teardown {
 public:
  Teardown(const recipe::Site& site, fs::path folder) : site_(site), folder_(std::move(folder)) {}

  void run() {
    if (done_ || site_.teardown.empty()) return;
    done_ = true;
    std::string lines;
    for (const std::string& line : site_.teardown) lines += line + "\n";
    std::vector<std::string> variables;
    for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
    const launch::CommandResult result =
        launch::run_command("/bin/bash", {"-c", lines}, variables, folder_, std::chrono::minutes(1));
    std::fprintf(stderr, "%s%s", result.out.c_str(), result.err.c_str());
    if (result.status != 0) std::fprintf(stderr, "the site's teardown ended with exit status %d\n", result.status);
  }

 private:
  const recipe::Site& site_;
  const fs::path folder_;
  bool done_ = false;
};

}  // namespace

int supervise(const fs::path& path, int session, const std::string& group) {
  static schedule::SupervisorSignals signals;
  take_signals(signals);
  const slurm::Allocation allocation = slurm::this_allocation();
  const journal::RunDirectory run = journal::RunDirectory::open(path);
  const slurm::Submission submission(run, session);
  const std::map<int, std::string> jobs = submission.read_jobs(group);
  if (!jobs.contains(allocation.index)) {
    throw core::Error("group " + group + " has no job of index " + std::to_string(allocation.index));
  }
  const std::string& job = jobs.at(allocation.index);
  if (const std::string owner = submission.settle_id(group, allocation.array); owner != allocation.array) {
    std::fprintf(stderr, "Slurm job %s does this work: nothing to do\n", owner.c_str());
    return kSuccess;
  }
  const plan::Plan plan = journal::read_plan(run);
  const plan::Job* planned = plan.find(job);
  if (planned == nullptr) throw core::Error("the plan of " + run.id() + " has no job " + job);
  const recipe::Site site = submission.read_site();
  slurm::Client client;
  Teardown teardown(site, run.path());
  schedule::Supervision what;
  what.session = session;
  what.job = job;
  what.slurm_job = allocation.id;
  what.restart = allocation.restart;
  what.nodes = allocation.nodes;
  what.node_names = client.node_names(allocation.nodes);
  what.preflight = site.preflight;
  what.exclude_failed = site.exclude_failed;
  what.requeue = [&] {
    teardown.run();
    client.requeue(allocation.id);
  };
  what.keep_off = [&](const std::set<std::string>& nodes) {
    std::string list = site.place(planned->spec.resources.device).exclude;
    for (const std::string& node : nodes) list += (list.empty() ? "" : ",") + node;
    slurm::Client hasty;
    hasty.patience = kExcludePatience;
    hasty.exclude(allocation.id, list);
  };
  what.names_of = [&](const std::string& nodes) { return client.node_names(nodes); };
  what.ends_us = [&]() -> std::optional<std::int64_t> {
    slurm::Client hasty;
    hasty.patience = kEndPatience;
    try {
      return hasty.ends_us(allocation.id);
    } catch (const core::Error& error) {
      std::fprintf(stderr, "Slurm does not tell when this job's time ends: %s\n", error.what());
      return allocation.ends_us;
    }
  };
  what.is_running = [&] {
    for (const slurm::QueueEntry& entry : client.queue(submission.comment(group))) {
      if (entry.id == allocation.id) return entry.state == "RUNNING";
    }
    return false;
  };
  schedule::Options options;
  options.worker = worker_program();
  if (!site.scratch.empty()) options.worker_options = {"--scratch", site.scratch};
  options.stop_grace = std::chrono::milliseconds(static_cast<std::int64_t>(planned->slurm.grace_s * 1000));
  slurm::AllocationLauncher launcher(site, planned->spec.resources.nodes, run.path());
  report::LiveDisplay display(stderr, false, 0);
  const schedule::SupervisorEnd end = schedule::supervise(plan, run, what, launcher, options, display, signals);
  teardown.run();
  const bool well = end == schedule::SupervisorEnd::completed || end == schedule::SupervisorEnd::superseded;
  return well ? kSuccess : kRunFailed;
}

}  // namespace braise::cli
