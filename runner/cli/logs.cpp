// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <fstream>
#include <map>
#include <thread>

#include "runner/cli/commands.h"
#include "runner/journal/run_directory.h"
#include "runner/report/status.h"
#include "stages/api/fault.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

/// The logs of a run's latest attempts: "log.<rank>.txt", and "mpirun.txt" where no rank is asked for.
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
    if (arguments.rank < 0 && fs::exists(folder / "mpirun.txt"))
      found.emplace_back(job.spec.job, folder / "mpirun.txt");
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

}  // namespace

int logs(const std::string& name, const fs::path& runs, const LogArguments& arguments) {
  const journal::RunDirectory run = find_run(name, runs);
  report::RunStatus status = report::read_status(run);
  if (!arguments.job.empty() && status.plan.find(arguments.job) == nullptr) {
    std::vector<std::string> jobs;
    for (const plan::Job& job : status.plan.jobs) jobs.push_back(job.spec.job);
    const std::string near = stages::nearest(arguments.job, jobs);
    throw UsageError("run " + run.id() + " has no job `" + stages::printable(arguments.job) + "`; " +
                     (near.empty() ? "`braise status " + run.id() + "` lists them" : "did you mean `" + near + "`?"));
  }
  std::map<fs::path, std::uint64_t> offsets;
  for (;;) {
    const bool running = status.state == "running";
    const bool last_round = !arguments.follow || !running;
    for (const auto& [log, path] : log_files(run, status, arguments)) print_from(log, path, offsets[path], last_round);
    if (last_round) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    status = report::read_status(run);
  }
  if (offsets.empty()) throw UsageError("run " + run.id() + " has no such log yet");
  return kSuccess;
}

int cancel(const std::string& name, const fs::path& runs, bool kill) {
  const journal::RunDirectory run = find_run(name, runs);
  if (!journal::request_stop(run, kill ? journal::StopMode::kill : journal::StopMode::stop)) {
    print(run.id() + " is not running\n");
    return kSuccess;
  }
  // A checkpoint may take a while: the run itself tells when it has ended.
  for (int i = 0; i < 100 && run.holder(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  print(run.id() + (run.holder() ? " is asked to stop; `braise status` tells when it has\n" : " has stopped\n"));
  return kSuccess;
}

}  // namespace braise::cli
