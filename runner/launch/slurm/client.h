// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace braise::launch::slurm {

/// A job as squeue or sacct shows it.
struct QueueEntry {
  std::string id;       ///< "12", or "12_3" of an array
  std::string state;    ///< "PENDING", "RUNNING", "COMPLETED", ...
  std::string reason;   ///< why it is pending: "Dependency"
  std::string nodes;    ///< where it runs: "n[1-2]"
  std::string comment;  ///< as given at submission; sacct does not tell

  /// Whether it may still run, or run again.
  bool is_alive() const;
};

/// Talks to Slurm by its commands (sbatch, squeue, scontrol, scancel), which must be on PATH. A controller that
/// does not answer, or is too busy, is asked again after longer and longer pauses; what it refuses for good is not.
/// Errors: core::Error with Slurm's own words.
class Client {
 public:
  /// Told once for each thing that has to be asked again.
  std::function<void(const std::string& why)> on_wait = [](const std::string&) {};
  /// How long something is asked again before that is an error.
  std::chrono::milliseconds patience = std::chrono::minutes(10);

  /// Submits a script from `folder`, and gives the job's number. A submission whose answer got lost is found again by
  /// its comment, so that none is made twice. `dependency` and `output` as sbatch takes them, or empty.
  std::string submit(const std::filesystem::path& folder, const std::filesystem::path& script,
                     const std::string& comment, const std::string& dependency, const std::string& output) const;

  /// The user's jobs that bear a comment beginning with `prefix`, an entry for each job of an array; also those that
  /// ended a few minutes ago.
  std::vector<QueueEntry> queue(const std::string& prefix) const;

  /// What Slurm's accounting (sacct) knows of jobs, also of those that squeue has forgotten; nothing where a cluster
  /// keeps none.
  std::vector<QueueEntry> accounting(const std::vector<std::string>& ids) const;

  /// Takes jobs out of the queue, and ends those that run: only those that wait where `pending_only`.
  void cancel(const std::vector<std::string>& ids, bool pending_only) const;

  /// Sends a signal to the batch scripts of running jobs. One that has just ended is no error.
  void signal(const std::vector<std::string>& ids, const std::string& signal) const;

  /// Puts a running job back into the queue.
  void requeue(const std::string& id) const;

  /// Keeps a job that waits off these nodes, and no others. One that has been requeued counts as waiting at once.
  void exclude(const std::string& id, const std::string& nodes) const;

  /// The nodes of a list as Slurm writes it: "n[1-2]" as "n1", "n2".
  std::vector<std::string> node_names(const std::string& list) const;

  /// When a running job will be ended, as microseconds since 1970; nothing where it has no limit.
  std::optional<std::int64_t> ends_us(const std::string& id) const;

  /// How many jobs an array may have.
  int max_array_size() const;

 private:
  std::string ask(const std::string& program, const std::vector<std::string>& arguments,
                  const std::filesystem::path& folder = {}, const std::function<bool()>& done_already = {},
                  const std::vector<std::string>& variables = {}) const;
};

/// What `sacct --parsable2 --noheader --format=JobID,State,Reason,NodeList` has printed.
std::vector<QueueEntry> parse_accounting(const std::string& text);

/// Whether the message of a Slurm command says that trying again is of no use.
bool is_refusal(const std::string& message);

}  // namespace braise::launch::slurm
