// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/tools.h"

#include <unistd.h>

#include <cstdio>
#include <vector>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/journal/run_files.h"
#include "runner/launch/environment.h"
#include "runner/report/differences.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

/// The path that a person means: an existing one, or a run's folder, or that of a stage's job in it.
std::string resolved(const std::string& target, const fs::path& runs) {
  if (fs::exists(target)) return target;
  // A run's folder may be a path itself.
  const std::size_t slash = target.rfind('/');
  const journal::RunDirectory run = find_run(target.substr(0, slash), runs);
  if (slash == std::string::npos) return run.path();
  const fs::path job = run.job_dir(target.substr(slash + 1));
  if (!fs::is_directory(job)) {
    throw UsageError("run " + run.id() + " has no job `" + target.substr(slash + 1) + "`; `braise status " + run.id() +
                     "` lists them");
  }
  return job;
}

/// The run that a path lies in, and the job there; nothing where it lies in none, or is not there.
struct Place {
  journal::RunDirectory run;
  std::string job;  ///< empty: the run itself
};
std::optional<Place> place_of(const fs::path& path) {
  std::error_code error;
  const fs::path whole = fs::canonical(path, error);
  if (error) return std::nullopt;
  for (fs::path above = whole; above != above.root_path(); above = above.parent_path()) {
    if (!journal::RunDirectory::is_run(above)) continue;
    std::string job;
    const fs::path below = whole.lexically_relative(above);
    auto part = below.begin();
    if (*part == "jobs" && ++part != below.end()) job = *part;
    return Place{journal::RunDirectory::open(above), job};
  }
  return std::nullopt;
}

/// Where the steps lie that a run's or a job's folder stands for: elsewhere where the one job that trained is reused.
fs::path done_at(const fs::path& path) try {
  const std::optional<Place> place = place_of(path);
  if (!place) return path;
  report::PastRun told(place->run);
  std::vector<std::string> trained;
  for (const plan::Job& job : journal::read_plan(place->run).jobs) {
    const std::string& name = job.spec.job;
    const fs::path folder = place->job.empty() ? place->run.path() : place->run.job_dir(name);
    std::error_code ignored;  // a job that has not begun has no folder
    if (fs::equivalent(path, folder, ignored) && !told.losses(name).empty()) trained.push_back(name);
  }
  if (trained.size() != 1 || told.record(trained[0])->state != journal::JobState::reused) return path;
  return told.attempts(trained[0]).front().parent_path().parent_path();
} catch (const core::Error&) {
  return path;  // of a run that another build made: the tool takes what is there
}

/// How the runs that two targets lie in differ in recipe and provenance; empty where there are no two runs.
std::string differences(const fs::path& a, const fs::path& b) try {
  const std::optional<Place> of_a = place_of(a), of_b = place_of(b);
  if (!of_a || !of_b || of_a->run.path() == of_b->run.path()) return "";
  const std::string recipe = report::different_recipe(of_a->run, of_b->run);
  std::string provenance = report::different_provenance(of_a->run, of_b->run);
  report::PastRun told_a(of_a->run), told_b(of_b->run);
  if (!of_a->job.empty() && !of_b->job.empty()) {
    provenance += report::different_workers(of_a->job, told_a, of_b->job, told_b);
  } else {
    for (const plan::Job& job : journal::read_plan(of_a->run).jobs) {
      provenance += report::different_workers(job.spec.job, told_a, job.spec.job, told_b);
    }
  }
  return (recipe.empty() ? "the same recipe\n" : "what differs in their recipes:\n" + recipe) +
         (provenance.empty() ? "the same provenance\n" : "what differs in their provenance:\n" + provenance);
} catch (const core::Error& error) {
  // Bits can be compared all the same.
  return std::string("how their recipes and provenance differ cannot be told: ") + error.what() + "\n";
}

/// A comparison reads checkpoints of any size.
constexpr std::chrono::hours kComparePatience{24};

/// Goes on as `braise-worker tool`: this program links no HDF5.
[[noreturn]] void become_tool(std::vector<std::string> arguments) {
  const std::string worker = worker_program();
  arguments.insert(arguments.begin(), {worker, "tool"});
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  ::execv(worker.c_str(), words.data());
  core::fail_errno("cannot start " + worker);
}

}  // namespace

int inspect(const std::string& target, const fs::path& runs, bool verify, bool json) {
  std::vector<std::string> arguments = {"inspect"};
  if (verify) arguments.push_back("--verify");
  if (json) arguments.push_back("--json");
  arguments.insert(arguments.end(), {"--", resolved(target, runs)});
  become_tool(arguments);
}

int export_checkpoint(const std::string& target, const fs::path& runs, const std::string& to,
                      const std::string& dtype) {
  std::vector<std::string> arguments = {"export", "--to=" + to};
  if (!dtype.empty()) arguments.push_back("--dtype=" + dtype);
  arguments.insert(arguments.end(), {"--", resolved(target, runs)});
  become_tool(arguments);
}

int import_weights(const std::string& path, const std::string& to) {
  become_tool({"import", "--to=" + to, "--", path});
}

launch::CommandResult run_compare_tool(const fs::path& a, const fs::path& b, std::optional<std::int64_t> through) {
  std::vector<std::string> arguments = {"tool", "compare"};
  if (through) arguments.push_back("--through=" + std::to_string(*through));
  arguments.insert(arguments.end(), {"--", a, b});
  launch::CommandResult compared =
      launch::run_command(worker_program(), arguments, launch::kept_environment(), {}, kComparePatience);
  if (compared.status > kBadInput) {
    throw core::Error("the comparison of " + a.string() + " with " + b.string() + " failed: " + compared.err);
  }
  return compared;
}

int compare(const std::string& name_a, const std::string& name_b, const fs::path& runs) {
  const std::string a = resolved(name_a, runs), b = resolved(name_b, runs);
  const launch::CommandResult compared = run_compare_tool(done_at(a), done_at(b), std::nullopt);
  std::fputs(compared.err.c_str(), stderr);
  if (compared.status != kBadInput) print(differences(a, b) + compared.out);
  return compared.status;
}

}  // namespace braise::cli
