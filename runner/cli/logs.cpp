// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/journal/replay.h"
#include "runner/launch/slurm/client.h"
#include "runner/launch/slurm/script.h"
#include "runner/report/status.h"
#include "stages/api/fault.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

/// Reads how a run stands, again and again: its journal each time, Slurm's queue more and more seldom.
class Watch {
 public:
  explicit Watch(const journal::RunDirectory& run) : run_(run), queue_(report::ask_queue({run})) {}

  report::RunStatus status() {
    if (Clock::now() >= ask_at_) {
      queue_ = report::ask_queue({run_});
      pause_ = std::min<std::chrono::milliseconds>(pause_ * 3 / 2, kLongestPause);
      ask_at_ = Clock::now() + pause_;
    }
    return report::read_status(run_, queue_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kFirstPause{2}, kLongestPause{30};
  const journal::RunDirectory& run_;
  report::Queue queue_;
  std::chrono::milliseconds pause_ = kFirstPause;
  Clock::time_point ask_at_ = Clock::now() + kFirstPause;
};

/// How often files are looked at that another process appends to.
constexpr auto kLook = std::chrono::milliseconds(200);

/// The logs of a run's latest attempts: "log.<rank>.txt", and what launched them printed where no rank is asked for.
std::vector<std::pair<std::string, fs::path>> log_files(const journal::RunDirectory& run,
                                                        const report::RunStatus& status,
                                                        const LogArguments& arguments) {
  std::vector<std::pair<std::string, fs::path>> found;
  for (const plan::Job& job : status.plan.jobs) {
    if (!arguments.job.empty() && job.spec.job != arguments.job) continue;
    const journal::JobRecord* record = status.journal.find(job.spec.job);
    if (record == nullptr || record->attempts.empty()) continue;
    const fs::path folder = run.path() / record->attempts.back().name.path();
    for (int rank = 0; rank < job.spec.resources.ranks(); ++rank) {
      if (arguments.rank >= 0 && rank != arguments.rank) continue;
      const fs::path file = folder / ("log." + std::to_string(rank) + ".txt");
      if (fs::exists(file)) found.emplace_back(job.spec.job + "." + std::to_string(rank), file);
    }
    for (const char* launch : {"mpirun.txt", "launch.txt"}) {
      if (arguments.rank < 0 && fs::exists(folder / launch)) found.emplace_back(job.spec.job, folder / launch);
    }
  }
  return found;
}

/// Prints the whole lines of a file from `offset` on, each begun by the log's name, and moves the offset behind them.
/// At the `end` of a log, a last line without its newline is printed too.
void print_from(const std::string& name, const fs::path& path, std::uint64_t& offset, bool end) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  std::string text;
  for (std::string line; std::getline(file, line);) {
    if (file.eof() && !end) break;
    offset += line.size() + 1;
    text += "[" + name + "] " + line + "\n";
  }
  if (!text.empty()) print(text);
}

/// Where Slurm does not answer, the run may well go on.
bool is_going_on(const report::RunStatus& status) {
  return status.state == "running" || status.state == "unknown";
}

/// Takes what waits out of Slurm's queue, and tells what runs there to save and stop, or to end.
int cancel_submitted(const journal::RunDirectory& run, const std::string& submitter, bool kill) {
  launch::slurm::Client client;
  const auto alive = [&] {
    std::set<std::string> ids;  // of whole arrays
    for (const launch::slurm::QueueEntry& entry : client.queue(launch::slurm::comment_prefix(run.id()))) {
      if (entry.is_alive()) ids.insert(entry.id.substr(0, entry.id.find('_')));
    }
    return std::vector<std::string>(ids.begin(), ids.end());
  };
  std::vector<std::string> ids = alive();
  if (ids.empty()) {
    print(run.id() + " is not running\n");
    return kSuccess;
  }
  // Whatever starts from now on sees this, and ends at once.
  journal::write_stop_request(run, submitter, kill ? journal::StopMode::kill : journal::StopMode::stop);
  client.cancel(ids, !kill);
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  ids = alive();
  if (!ids.empty() && !kill) client.signal(ids, "USR2");
  for (auto pause = std::chrono::milliseconds(300); !ids.empty() && std::chrono::steady_clock::now() < give_up;) {
    std::this_thread::sleep_for(pause);
    pause *= 2;
    ids = alive();
  }
  print(run.id() + (ids.empty() ? " has stopped\n" : " is asked to stop; `braise status` tells when it has\n"));
  return kSuccess;
}

}  // namespace

int logs(const std::string& name, const fs::path& runs, const LogArguments& arguments) {
  const journal::RunDirectory run = find_run(name, runs);
  Watch watch(run);
  report::RunStatus status = watch.status();
  if (!arguments.job.empty() && status.plan.find(arguments.job) == nullptr) {
    std::vector<std::string> jobs;
    for (const plan::Job& job : status.plan.jobs) jobs.push_back(job.spec.job);
    const std::string near = stages::nearest(arguments.job, jobs);
    throw UsageError("run " + run.id() + " has no job `" + stages::printable(arguments.job) + "`; " +
                     (near.empty() ? "`braise status " + run.id() + "` lists them" : "did you mean `" + near + "`?"));
  }
  std::map<fs::path, std::uint64_t> offsets;
  for (;;) {
    const bool last_round = !arguments.follow || !is_going_on(status);
    for (const auto& [log, path] : log_files(run, status, arguments)) print_from(log, path, offsets[path], last_round);
    if (last_round) break;
    std::this_thread::sleep_for(kLook);
    status = watch.status();
  }
  if (offsets.empty()) throw UsageError("run " + run.id() + " has no such log yet");
  return kSuccess;
}

int cancel(const std::string& name, const fs::path& runs, bool kill) {
  const journal::RunDirectory run = find_run(name, runs);
  const std::vector<journal::Session> sessions = journal::replay(run).sessions;
  if (!sessions.empty() && sessions.back().submitted && !run.holder())
    return cancel_submitted(run, sessions.back().writer, kill);
  if (!journal::request_stop(run, kill ? journal::StopMode::kill : journal::StopMode::stop)) {
    print(run.id() + " is not running\n");
    return kSuccess;
  }
  // A checkpoint may take a while: the run itself tells when it has ended.
  for (int i = 0; i < 100 && run.holder(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  print(run.id() + (run.holder() ? " is asked to stop; `braise status` tells when it has\n" : " has stopped\n"));
  return kSuccess;
}

int wait(const std::string& name, const fs::path& runs) {
  const journal::RunDirectory run = find_run(name, runs);
  Watch watch(run);
  report::RunStatus status = watch.status();
  for (std::chrono::milliseconds pause = kLook; is_going_on(status); status = watch.status()) {
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 3 / 2, std::chrono::seconds(2));
  }
  print(run.id() + ": " + status.state + "\n");
  return status.state == "completed" ? kSuccess : kRunFailed;
}

}  // namespace braise::cli
