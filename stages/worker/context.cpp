// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/context.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/comm/communicator.h"
#include "stages/worker/signals.h"

namespace braise::worker {

WorkerContext::WorkerContext(const stages::JobSpec& job, const Attempt& attempt, comm::Communicator& comm,
                             HeartbeatThread& heartbeat, RankLog& log)
    : job_(job), attempt_(attempt), comm_(comm), heartbeat_(heartbeat), log_(log) {
  if (comm_.rank() == 0) metrics_.emplace(attempt_.dir / "metrics.jsonl");
}

stages::Request WorkerContext::poll_request() {
  constexpr std::int64_t kStop = std::numeric_limits<std::int64_t>::max();
  const std::string before = heartbeat_.operation();
  operation("wait for the other ranks' requests");
  // Ranks compare how many checkpoints have been asked for, not whether one was: a signal that reaches one rank before
  // this poll and another after it is one request.
  const Requested mine = requested();
  const std::int64_t agreed = comm_.all_max(mine.stop ? kStop : mine.checkpoints);
  operation(before);
  if (agreed == kStop) return stages::Request::stop;
  const bool is_new = agreed > agreed_checkpoints_;
  agreed_checkpoints_ = agreed;
  return is_new ? stages::Request::checkpoint : stages::Request::none;
}

void WorkerContext::metric(nlohmann::json values) {
  if (metrics_) metrics_->append(std::move(values));
}

void WorkerContext::sync_metrics() {
  if (metrics_) metrics_->sync();
}

}  // namespace braise::worker
