// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "stages/shared/io/lock.h"

namespace braise::journal {

/// How the names of folders begin that will be run directories once they are whole; sweep() removes those nobody holds.
inline constexpr char kNewPrefix[] = ".new-";

/// What a run directory is made with.
struct RunFiles {
  std::string recipe;      ///< recipe.yaml, as given
  std::string resolved;    ///< resolved.yaml, as meant
  std::string plan;        ///< plan.json
  std::string provenance;  ///< provenance.json
};

/// The runner that holds a run.
struct Holder {
  std::string writer;  ///< its name as a writer of the journal: what `cancel` addresses
  std::int64_t pid = 0;
  std::string host;
  std::string since;  ///< as io::format_utc
};

/// The right to run a run, held until destroyed or until this process dies.
class RunLock {
 public:
  const Holder& holder() const { return holder_; }

 private:
  friend class RunDirectory;
  RunLock(io::FileLock lock, Holder holder) : lock_(std::move(lock)), holder_(std::move(holder)) {}
  io::FileLock lock_;
  Holder holder_;
};

struct CreatedRun;

/// A run's folder and the names of what is in it. A plain value: nothing is held open.
class RunDirectory {
 public:
  /// Makes `<runs_dir>/<name>-<utc>-<id>`, held by this process from the first. A crash at any instant leaves a whole
  /// run directory or a hidden `.new-*` folder that sweep() removes. Errors: core::Error; nothing is left.
  static CreatedRun create(const std::filesystem::path& runs_dir, const std::string& name, const RunFiles& files);

  /// Whether a folder has what a run directory must have.
  static bool is_run(const std::filesystem::path& path);

  /// An existing run directory. Errors: core::Error saying what it lacks.
  static RunDirectory open(const std::filesystem::path& path);

  /// The run that a person means: `latest`, its name, a unique beginning of its name, or a path. Errors: core::Error
  /// that lists what could be meant.
  static RunDirectory find(const std::filesystem::path& runs_dir, const std::string& text);

  /// All runs, oldest first.
  static std::vector<RunDirectory> list(const std::filesystem::path& runs_dir);

  /// Takes the run for this process. Errors: core::Error saying who holds it.
  RunLock lock() const;

  /// Who runs it now; nothing where nobody does.
  std::optional<Holder> holder() const;

  const std::filesystem::path& path() const { return path_; }  ///< absolute, no symbolic links
  std::string id() const { return path_.filename().string(); }
  std::filesystem::path runs_dir() const { return path_.parent_path(); }

  std::filesystem::path recipe_file() const { return path_ / "recipe.yaml"; }
  std::filesystem::path resolved_file() const { return path_ / "resolved.yaml"; }
  std::filesystem::path plan_file() const { return path_ / "plan.json"; }
  std::filesystem::path provenance_file() const { return path_ / "provenance.json"; }
  std::filesystem::path journal_dir() const { return path_ / "journal"; }
  /// Of a run that was archived: what other runs told of the jobs that it reuses from them, a partial run each.
  std::filesystem::path reused_dir() const { return path_ / "reused"; }
  std::filesystem::path scratch_dir() const { return path_ / "scratch"; }
  std::filesystem::path job_dir(const std::string& job) const { return path_ / "jobs" / job; }
  std::filesystem::path job_file(const std::string& job) const { return job_dir(job) / "job.yaml"; }

 private:
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path lock_file() const { return path_ / "lock"; }
  std::filesystem::path path_;
};

struct CreatedRun {
  RunDirectory run;
  RunLock lock;
};

/// One attempt at a job: its names everywhere.
struct AttemptName {
  std::string job;
  int number = 0;
  std::string token;

  std::string folder() const { return std::to_string(number) + "-" + token; }   ///< "1-3fa9bc"
  std::string path() const { return "jobs/" + job + "/attempts/" + folder(); }  ///< relative to the run
  std::string writer() const { return job + "-" + folder(); }                   ///< of its events
  std::string scratch() const { return "scratch/" + job + "-" + folder(); }     ///< relative to the run
  friend bool operator==(const AttemptName&, const AttemptName&) = default;
};

enum class StopMode {
  stop,  ///< running jobs checkpoint and stop
  kill   ///< at once
};

const char* to_string(StopMode mode);

/// Asks the runner of `run`, which may be another process, to end. False where nobody runs it.
bool request_stop(const RunDirectory& run, StopMode mode);

/// Asks whoever works for the session of that writer to end.
void write_stop_request(const RunDirectory& run, const std::string& writer, StopMode mode);

/// Removes what killed commands left: `.new-*` folders, and the scratch of runs that nobody runs. Touches nothing that
/// is in use, follows no symbolic links, and is quick where there is nothing to do. Trouble is not reported: the next
/// command tries again.
void sweep(const std::filesystem::path& runs_dir);

}  // namespace braise::journal
