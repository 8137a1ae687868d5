// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/journal/run_directory.h"
#include "runner/report/format.h"
#include "runner/report/points.h"
#include "runner/report/status.h"
#include "stages/api/fault.h"
#include "stages/shared/io/clock.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

std::string minute_text(std::int64_t us) {
  return us == 0 ? "-" : io::format_utc(us).substr(0, 10) + " " + io::format_utc(us).substr(11, 5);
}

std::uint64_t bytes_below(const fs::path& folder) {
  std::uint64_t total = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->is_regular_file(error) && !entry->is_symlink(error)) total += entry->file_size(error);
  }
  return total;
}

}  // namespace

int status(const std::string& name, const fs::path& runs, bool json) {
  const journal::RunDirectory run = find_run(name, runs);
  report::RunStatus status = report::read_status(run, report::ask_queue({run}));
  report::add_accounting(status);
  print(json ? report::status_json(status, run).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
             : report::status_text(status, run));
  return kSuccess;
}

int runs(const fs::path& runs, bool json) {
  journal::sweep(runs);
  nlohmann::json list = nlohmann::json::array();
  report::Table table({"run", "state", "jobs", "started (UTC)", "time"});
  const std::vector<journal::RunDirectory> all = journal::RunDirectory::list(runs);
  const report::Queue queue = report::ask_queue(all);
  for (const journal::RunDirectory& run : all) {
    try {
      const report::RunStatus status = report::read_status(run, queue);
      if (json) {
        list.push_back({{"run", status.id},
                        {"path", run.path().string()},
                        {"recipe", status.recipe},
                        {"state", status.state},
                        {"jobs", status.counts},
                        {"started", status.started_us == 0 ? nlohmann::json()
                                                           : nlohmann::json(io::format_utc(status.started_us))}});
        continue;
      }
      std::string counts;
      for (const auto& [state, count] : status.counts) {
        counts += (counts.empty() ? "" : ", ") + std::to_string(count) + " " + state;
      }
      const double seconds = static_cast<double>(status.ended_us - status.started_us) / 1e6;
      table.add({status.id, status.state, counts, minute_text(status.started_us),
                 status.ended_us == 0 ? "-" : report::duration_text(seconds)});
    } catch (const core::Error& error) {
      // One run that another version made, or that is damaged, does not hide the others.
      if (json) {
        list.push_back(
            {{"run", run.id()}, {"path", run.path().string()}, {"state", "unreadable"}, {"reason", error.what()}});
      } else {
        table.add({run.id(), "unreadable", error.what(), "-", "-"});
      }
    }
  }
  print(json ? list.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n" : table.text());
  return kSuccess;
}

int points(const std::string& name, const fs::path& runs, const report::Ranking& ranking, bool sorted, bool json) {
  const journal::RunDirectory run = find_run(name, runs);
  report::Points points = report::read_points(report::read_status(run, report::ask_queue({run})), run, ranking);
  const report::Point* best = points.best();
  if (sorted && best == nullptr) {
    std::fprintf(stderr, "braise: no job of %s has told a number for the metric `%s`\n", run.id().c_str(),
                 stages::printable(points.metric).c_str());
    return kRunFailed;
  }
  std::string last;
  if (sorted) {
    last = "best: " + best->job + (best->attempt_dir.empty() ? "" : ", " + best->attempt_dir) + "\n";
    points.sort();
  }
  print(json ? report::points_json(points, run).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
             : report::points_text(points) + last);
  return kSuccess;
}

void refuse_in_use(const journal::RunDirectory& run) {
  if (const auto holder = run.holder()) {
    throw UsageError(run.id() + " is running (process " + std::to_string(holder->pid) + " on " + holder->host +
                     "); `braise cancel " + run.id() + "` stops it");
  }
  for (const launch::slurm::QueueEntry& entry : report::ask_queue({run}).entries) {
    if (!entry.is_alive()) continue;
    throw UsageError(run.id() + " is in Slurm's hands (job " + entry.id + "); `braise cancel " + run.id() +
                     "` takes it out");
  }
}

int clean(const std::vector<std::string>& names, const fs::path& runs, bool dry_run) {
  // All names are looked up first: a wrong one removes nothing.
  std::vector<journal::RunDirectory> chosen;
  for (const std::string& name : names) {
    journal::RunDirectory run = find_run(name, runs);
    refuse_in_use(run);
    chosen.push_back(std::move(run));
  }
  for (const journal::RunDirectory& run : chosen) {
    const std::string what = run.path().string() + " (" + report::bytes_text(bytes_below(run.path())) + ")\n";
    if (dry_run) {
      print("would remove " + what);
      continue;
    }
    const journal::RunLock lock = run.lock();
    std::error_code error;
    fs::remove_all(run.path(), error);
    if (error) throw core::Error("cannot remove " + run.path().string() + ": " + error.message());
    print("removed " + what);
  }
  return kSuccess;
}

}  // namespace braise::cli
