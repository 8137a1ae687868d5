// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/context.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/comm/communicator.h"
#include "stages/shared/io/clock.h"
#include "stages/worker/signals.h"

namespace braise::worker {
namespace {

constexpr double kMarginShare = 0.05;
constexpr double kMostMarginSeconds = 5;

}  // namespace

bool is_time_up(std::int64_t began_us, std::int64_t ends_us, std::int64_t now_us, double needed_s) {
  const double whole_s = static_cast<double>(ends_us - began_us) * 1e-6;
  const double left_s = static_cast<double>(ends_us - now_us) * 1e-6;
  return left_s <= needed_s + std::clamp(whole_s * kMarginShare, 0.0, kMostMarginSeconds);
}

WorkerContext::WorkerContext(const stages::JobSpec& job, const Attempt& attempt, comm::Communicator& comm,
                             HeartbeatThread& heartbeat, RankLog& log)
    : job_(job), attempt_(attempt), comm_(comm), heartbeat_(heartbeat), log_(log), began_us_(io::utc_us()) {
  if (comm_.rank() == 0) metrics_.emplace(attempt_.dir / "metrics.jsonl");
}

stages::Request WorkerContext::poll_request(std::optional<double> needed_s) {
  constexpr std::int64_t kStop = std::numeric_limits<std::int64_t>::max();
  if (attempt_.ends_us && needed_s && !time_is_up_ &&
      is_time_up(began_us_, *attempt_.ends_us, io::utc_us(), *needed_s)) {
    time_is_up_ = true;
    log("the time of this attempt ends at " + io::format_utc(*attempt_.ends_us) +
        ", which is too soon for what comes next");
  }
  const std::string before = heartbeat_.operation();
  operation("wait for the other ranks' requests");
  // Ranks compare how many checkpoints have been asked for, not whether one was: a signal that reaches one rank before
  // this poll and another after it is one request.
  const Requested mine = requested();
  const std::int64_t agreed = comm_.all_max(mine.stop || time_is_up_ ? kStop : mine.checkpoints);
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
