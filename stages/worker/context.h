// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "stages/api/stage.h"
#include "stages/worker/attempt.h"
#include "stages/worker/heartbeat_thread.h"
#include "stages/worker/metrics.h"
#include "stages/worker/rank_log.h"

namespace braise::worker {

/// Whether an attempt that began and ends at these times (microseconds since 1970) has no more than `needed_s` left, and
/// a little to end in: a twentieth of its time, five seconds at most.
bool is_time_up(std::int64_t began_us, std::int64_t ends_us, std::int64_t now_us, double needed_s);

/// What the worker gives to a stage.
class WorkerContext final : public stages::StageContext {
 public:
  /// The referred-to things must outlive the context. `job` has its places put in.
  WorkerContext(const stages::JobSpec& job, const Attempt& attempt, comm::Communicator& comm,
                HeartbeatThread& heartbeat, RankLog& log);

  const stages::JobSpec& job() const override { return job_; }
  comm::Communicator& comm() override { return comm_; }
  const std::filesystem::path& attempt_dir() const override { return attempt_.dir; }
  const std::filesystem::path& scratch_dir() const override { return attempt_.scratch_dir; }
  const std::vector<std::filesystem::path>& earlier_attempts() const override { return attempt_.earlier; }
  void operation(std::string_view what) override { heartbeat_.operation(what); }
  stages::Request poll_request(std::optional<double> needed_s) override;
  void metric(nlohmann::json values) override;
  void sync_metrics() override;
  void log(std::string_view message) override { log_.info(message); }

 private:
  const stages::JobSpec& job_;
  const Attempt& attempt_;
  comm::Communicator& comm_;
  HeartbeatThread& heartbeat_;
  RankLog& log_;
  std::optional<Metrics> metrics_;  ///< on rank 0
  const std::int64_t began_us_;
  std::int64_t agreed_checkpoints_ = 0;
  bool time_is_up_ = false;
};

}  // namespace braise::worker
