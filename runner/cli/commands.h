// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runner/cli/common.h"
#include "runner/report/points.h"

namespace CLI {
class App;
}

namespace braise::cli {

// Each command as a function of its arguments; what it returns is the exit status. What a user did wrongly is thrown as
// UsageError, a run-time fault as core::Error.

int validate(const RecipeArguments& arguments, bool json);

enum class PlanFormat { table, json, dot };
int plan(const RecipeArguments& arguments, const std::filesystem::path& runs, PlanFormat format, bool fresh, bool fit);

struct RunArguments {
  bool fresh = false;
  bool fail_fast = false;
};
int run(const RecipeArguments& recipe, const std::filesystem::path& runs, const RunArguments& arguments);
/// A run that was submitted goes on in Slurm, with the site file it had unless `site` names another.
int resume(const std::string& run, const std::filesystem::path& runs, const RunArguments& arguments,
           const std::filesystem::path& site);
int resubmit(const journal::RunDirectory& run, const std::filesystem::path& site);

struct RerunArguments {
  std::optional<std::int64_t> until;  ///< the step after which every training ends
  int workers = 0;                    ///< of every job; 0: as many as it had
  std::filesystem::path in;           ///< the folder for the new run; empty: that of the runs
};
/// Repeats a run, or an archive of one, and compares as it goes: success where what comes out is identical to the bit.
int rerun(const std::string& run, const std::filesystem::path& runs, const RerunArguments& arguments);

struct SubmitArguments {
  std::filesystem::path site;  ///< empty: the user's, else the defaults
  bool dry_run = false;
  bool fresh = false;
};
int submit(const RecipeArguments& recipe, const std::filesystem::path& runs, const SubmitArguments& arguments);
/// What a batch script runs: the job of a group that this Slurm job is meant for.
int supervise(const std::filesystem::path& run, int session, const std::string& group);
/// Returns when the run has ended: success where it is completed.
int wait(const std::string& run, const std::filesystem::path& runs);

int status(const std::string& run, const std::filesystem::path& runs, bool json);
int runs(const std::filesystem::path& runs, bool json);
/// The points of a run by parameters and metric, in the order of the plan; `sorted`: the best first.
int points(const std::string& run, const std::filesystem::path& runs, const report::Ranking& ranking, bool sorted,
           bool json);

struct LogArguments {
  std::string job;  ///< empty: every job
  int rank = -1;    ///< -1: every rank
  bool follow = false;
};
int logs(const std::string& run, const std::filesystem::path& runs, const LogArguments& arguments);

/// With `kill`, the ranks are ended at once; else they checkpoint first.
int cancel(const std::string& run, const std::filesystem::path& runs, bool kill);
/// One file of a run: `to`, or the run's name in this folder. Without `checkpoints`, without their tensors.
int archive(const std::string& run, const std::filesystem::path& runs, const std::string& to, bool checkpoints);
int unpack(const std::string& file, const std::filesystem::path& runs);
int clean(const std::vector<std::string>& names, const std::filesystem::path& runs, bool dry_run);

// What works on the files that jobs leave is done by `braise-worker tool`. A target is a run as elsewhere, RUN/STAGE,
// or a path.
int inspect(const std::string& target, const std::filesystem::path& runs, bool verify, bool json);
int export_checkpoint(const std::string& target, const std::filesystem::path& runs, const std::string& to,
                      const std::string& dtype);
int import_weights(const std::string& path, const std::string& to);
/// Of two runs also tells how they differ in recipe and provenance, which does not count.
int compare(const std::string& a, const std::string& b, const std::filesystem::path& runs);

/// Prints a schema by name ("recipe", "stage.tokenize"), the names of all where empty, or the reference page.
int schema(const std::string& name, bool reference);
int kinds(bool json);
int version(bool json);

/// Prints a completion script for the shell ("bash", "zsh"), made from the commands of `app`.
int completion(const CLI::App& app, const std::string& shell);

}  // namespace braise::cli
