// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/comm/communicator.h"
#include "stages/api/stage.h"

namespace braise::test {

/// A worker's context for a stage that runs inside a test, as rank 0 of 1 unless another communicator is given.
class FakeContext final : public stages::StageContext {
 public:
  explicit FakeContext(const std::filesystem::path& run_dir, const std::string& attempt = "1-aaaaaa")
      : attempt_dir_(run_dir / "jobs" / "job" / "attempts" / attempt), scratch_dir_(run_dir / "scratch" / attempt) {
    std::filesystem::create_directories(attempt_dir_);
    std::filesystem::create_directories(scratch_dir_);
    job_.job = job_.stage = "job";
    job_.kind_version = 1;
    job_.braise_version = "1.2.3";
    job_.fingerprint = "fingerprint";
    job_.resources = {1, 1, 1, "cpu", 0, std::uint64_t{1} << 30, 0, 0, 0};
  }

  const stages::JobSpec& job() const override { return job_; }
  comm::Communicator& comm() override { return ranks_ == nullptr ? *comm_ : *ranks_; }
  const std::filesystem::path& attempt_dir() const override { return attempt_dir_; }
  const std::filesystem::path& scratch_dir() const override { return scratch_dir_; }
  const std::vector<std::filesystem::path>& earlier_attempts() const override { return earlier_attempts_; }
  void operation(std::string_view what) override { operations_.emplace_back(what); }
  stages::Request poll_request(std::optional<double> needed_s) override {
    needed_s_ = needed_s;
    return on_poll_ ? on_poll_() : request_;
  }
  void metric(nlohmann::json values) override {
    const std::lock_guard lock(*metrics_mutex_);
    metrics_.push_back(std::move(values));
  }
  void sync_metrics() override {
    const std::lock_guard lock(*metrics_mutex_);
    synced_metrics_ = metrics_.size();
  }
  void log(std::string_view message) override { log_ += std::string(message) + "\n"; }

  stages::JobSpec job_;
  std::unique_ptr<comm::Communicator> comm_ = comm::single();
  comm::Communicator* ranks_ = nullptr;  ///< in its place, where there are several
  std::filesystem::path attempt_dir_;
  std::filesystem::path scratch_dir_;
  std::vector<std::filesystem::path> earlier_attempts_;
  stages::Request request_ = stages::Request::none;
  std::function<stages::Request()> on_poll_;  ///< in its place
  std::optional<double> needed_s_;            ///< as last polled with
  std::vector<std::string> operations_;
  std::vector<nlohmann::json> metrics_;
  std::size_t synced_metrics_ = 0;  ///< of them, on the disk
  std::unique_ptr<std::mutex> metrics_mutex_ = std::make_unique<std::mutex>();
  std::string log_;
};

}  // namespace braise::test
