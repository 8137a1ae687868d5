// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/heartbeat_thread.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/worker/signals.h"

namespace braise::worker {

HeartbeatThread::HeartbeatThread(const std::filesystem::path& attempt_dir, int rank, std::string host)
    : path_(attempt_dir / ("heartbeat." + std::to_string(rank))) {
  heartbeat_.rank = rank;
  heartbeat_.host = std::move(host);
  heartbeat_.pid = ::getpid();
  operation("start");
  file_ = io::FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file_) core::fail_errno("cannot create " + path_.string());
  write();
  thread_ = std::thread([this] { beat(); });
}

HeartbeatThread::~HeartbeatThread() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ended_changed_.notify_all();
  thread_.join();
}

void HeartbeatThread::operation(std::string_view what) {
  const std::lock_guard lock(mutex_);
  heartbeat_.operation = what;
  heartbeat_.operation_us = io::utc_us();
}

std::string HeartbeatThread::operation() const {
  const std::lock_guard lock(mutex_);
  return heartbeat_.operation;
}

void HeartbeatThread::beat() {
  block_signals();
  for (bool ended = false; !ended;) {
    {
      std::unique_lock lock(mutex_);
      ended = ended_changed_.wait_for(lock, std::chrono::seconds(1), [this] { return ended_; });
    }
    write();
  }
}

void HeartbeatThread::write() {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    heartbeat_.beat_us = io::utc_us();
    text = stages::to_text(heartbeat_);
  }
  // A beat that cannot be written (a full disk) is one that is missed: the reader draws the conclusion.
  static_cast<void>(!::pwrite(file_.get(), text.data(), text.size(), 0));
}

}  // namespace braise::worker
