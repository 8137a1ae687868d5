// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stages/api/job.h"

namespace braise::comm {
class Communicator;
}

namespace braise::stages {

/// What a person or a scheduler asked of a running job.
enum class Request { none, checkpoint, stop };

/// What the worker gives to a stage, on every rank.
class StageContext {
 public:
  virtual ~StageContext() = default;

  virtual const JobSpec& job() const = 0;  ///< with ${run.dir} and ${run.scratch} put in
  virtual comm::Communicator& comm() = 0;
  virtual const std::filesystem::path& attempt_dir() const = 0;  ///< the only folder to write in, besides scratch
  virtual const std::filesystem::path& scratch_dir() const = 0;
  /// The folders of earlier attempts at this job, latest first: finished parts found there may be taken over.
  virtual const std::vector<std::filesystem::path>& earlier_attempts() const = 0;

  /// Notes what this rank is doing now, for the heartbeat: a rank that notes nothing new for `resources.hang_timeout`
  /// is taken for hung and named with its last note. Cheap; not collective.
  virtual void operation(std::string_view what) = 0;

  /// The strongest request any rank has been given since the last call: agreed, so collective. `checkpoint` is reported
  /// once for each signal, `stop` at every call. Where the attempt's time ends at a known moment, a stop is also given
  /// when some rank could not do what it needs to in time: `needed_s` is how long it will take to come to the next call
  /// and then to save what there is; nothing where that is not known yet.
  virtual Request poll_request(std::optional<double> needed_s) = 0;

  /// Appends to metrics.jsonl (rank 0; other ranks' calls do nothing). Keys: schemas/metrics.schema.json.
  virtual void metric(nlohmann::json values) = 0;

  /// Returns when what metric() was given so far is on the disk: to be called before anything is announced that a later
  /// attempt goes on from, or lines of before would be missing after the machine's fall. Any thread.
  virtual void sync_metrics() = 0;

  /// Writes to this rank's log.
  virtual void log(std::string_view message) = 0;
};

/// How a stage ended without an error.
enum class Ending {
  completed,  ///< its outputs are whole and on the disk
  stopped     ///< as asked, in a state from which another attempt goes on
};

/// The outputs a completed stage left, by declared name, with digests; filled in on rank 0.
using Outputs = std::map<std::string, Output>;

}  // namespace braise::stages
