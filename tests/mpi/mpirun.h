// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/api/job.h"
#include "tests/support/support.h"

namespace braise::test {

/// What a program needs around it to run under mpirun on any machine, as root too.
std::vector<std::pair<std::string, std::string>> mpi_environment();

/// "mpirun -n <ranks> ... <command>". What Open MPI leaves behind where it is killed stays in `folder`.
std::vector<std::string> mpirun_command(int ranks, const std::filesystem::path& folder,
                                        const std::vector<std::string>& command);

/// A run directory with one job, made by hand, whose attempts are run by braise-worker under mpirun.
class HandMadeRun {
 public:
  /// `job.resources` are those of `ranks` workers on one node.
  HandMadeRun(const std::string& kind, int ranks, const nlohmann::json& config,
              const std::vector<std::filesystem::path>& inputs);

  /// Rewrites job.yaml for another number of ranks.
  void set_ranks(int ranks);
  stages::JobSpec& job() { return job_; }
  void write_job() const;

  /// Makes the folder of the next attempt and gives its path.
  std::filesystem::path new_attempt();
  /// "1-000001" and so on, for the attempt in this folder.
  nlohmann::json events_of(const std::filesystem::path& attempt) const;
  /// The last event of an attempt.
  nlohmann::json end_of(const std::filesystem::path& attempt) const;

  std::vector<std::string> command(const std::filesystem::path& attempt) const;
  Finished run(const std::filesystem::path& attempt) const;

  const std::filesystem::path& path() const { return folder_.path(); }
  std::filesystem::path job_file() const { return folder_.path() / "jobs" / job_.job / "job.yaml"; }

 private:
  TemporaryFolder folder_;
  stages::JobSpec job_;
  int attempts_ = 0;
};

/// A program that runs beside the test.
class Background {
 public:
  explicit Background(const std::vector<std::string>& arguments);
  ~Background();  ///< kills it where it still runs

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  Finished wait();

 private:
  TemporaryFolder outputs_;
  pid_t pid_ = 0;
};

/// Waits until `condition` holds; false after 60 s.
bool wait_until(const std::function<bool()>& condition);

/// Whether the process is there (a zombie is not).
bool is_running(pid_t pid);

}  // namespace braise::test
