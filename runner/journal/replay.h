// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runner/journal/run_directory.h"
#include "runner/plan/bind.h"

namespace braise::journal {

enum class JobState { waiting, running, completed, reused, stopped, failed, blocked };
enum class AttemptState {
  running,  ///< also where its runner was killed and no other has come since
  completed,
  stopped,
  failed,
  lost  ///< its runner was killed
};

const char* to_string(JobState state);
const char* to_string(AttemptState state);

/// What the journal tells of one attempt. Times are microseconds since 1970 from the writer's clock, for people only;
/// 0: not known.
struct AttemptRecord {
  AttemptName name;
  AttemptState state = AttemptState::running;
  int session = 0;  ///< in which it was made
  std::string fingerprint;
  int ranks = 0;
  int threads = 0;
  std::vector<int> cores;
  std::int64_t started_us = 0;
  std::int64_t ended_us = 0;
  std::optional<int> exit_code;
  std::optional<int> signal;
  std::string reason;
  /// What the worker says it left; nothing where it has not said so.
  std::optional<std::map<std::string, stages::Output>> outputs;
};

/// Where a finished job's outputs are.
struct Completion {
  AttemptName attempt;
  std::string fingerprint;
  plan::Completed completed;
  bool recorded = true;  ///< false: the worker finished, and the runner died before it could say so
  std::int64_t time_us = 0;
};

struct JobRecord {
  JobState state = JobState::waiting;
  std::vector<AttemptRecord> attempts;  ///< by number; a reused job has none of its own for the reuse
  std::optional<Completion> completion;
  std::string reason;     ///< why it failed, or was queued again
  bool given_up = false;  ///< no further attempt is made in this session
  std::string by;         ///< the job whose failure blocks it
  std::string from_run;   ///< where it is reused from
  std::string from_job;
  std::string nodes;                ///< of the Slurm job whose supervisor took it last, as Slurm writes them
  std::set<std::string> off_nodes;  ///< that it keeps off, in the latest session
  int idle_requeues = 0;            ///< how often in a row it was queued again without an attempt at it
  std::string slurm_job;            ///< of the latest session's submission: "12", "12_3"; else empty
  int last_attempt = 0;             ///< the highest number given to an attempt or a reuse
};

/// One runner's turn at the run.
struct Session {
  int number = 0;
  std::string writer;
  std::int64_t pid = 0;
  std::string host;
  std::int64_t started_us = 0;
  std::int64_t ended_us = 0;
  std::string outcome;     ///< empty: still running, or killed
  bool submitted = false;  ///< its jobs are done by Slurm
  std::optional<StopMode> stop_requested;
};

/// The state of a run: all that its events say together.
struct RunState {
  std::map<std::string, JobRecord> jobs;  ///< jobs that some event names
  std::vector<Session> sessions;          ///< in order
  std::vector<std::string> warnings;      ///< torn, malformed or unknown events and those of ghosts: "file:line: ..."

  const JobRecord* find(const std::string& job) const;
  JobState state_of(const std::string& job) const;  ///< `waiting` for a job that no event names
};

/// "rank 1 on host n2: stages/tokenize/work.cpp:120: cannot open ...", from a stage_failed event or a
/// failure.<rank>.json.
std::string describe_failure(const nlohmann::json& failure);

/// One writer's file, checked: only events that the schema allows are left.
struct JournalFile {
  std::string writer;
  std::vector<nlohmann::json> events;
  std::vector<std::size_t> lines;  ///< where each event stands
  std::vector<std::string> warnings;
};

/// Every writer's file, by name, but those of workers that have no say any more: the attempt was ended by its runner,
/// and the job completed. Of a large run that is most of what there is.
std::vector<JournalFile> read_journal(const std::filesystem::path& journal_dir);

/// One writer's file; empty where there is none.
JournalFile read_journal_file(const std::filesystem::path& journal_dir, const std::string& writer);

/// The state that the events give: a pure function of them, whatever order the files come in and whatever the writers'
/// clocks said. Runners follow each other by their session number, the
/// supervisors of Slurm jobs after the runner that submitted them; a worker's events count for the attempt whose token
/// they bear, and where a runner has decided, its word stands.
RunState replay(std::vector<JournalFile> files);

RunState replay(const RunDirectory& run);

}  // namespace braise::journal
