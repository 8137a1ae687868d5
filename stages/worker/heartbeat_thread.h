// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "stages/api/heartbeat.h"
#include "stages/shared/io/file.h"

namespace braise::worker {

/// Rewrites this rank's heartbeat file every second, from a thread of its own, until destroyed.
class HeartbeatThread {
 public:
  HeartbeatThread(const std::filesystem::path& attempt_dir, int rank, std::string host);
  ~HeartbeatThread();

  /// Notes what the rank is doing now.
  void operation(std::string_view what);
  /// What was noted last.
  std::string operation() const;

 private:
  void beat();
  void write();

  io::FileDescriptor file_;
  std::filesystem::path path_;
  mutable std::mutex mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;
  stages::Heartbeat heartbeat_;
  std::thread thread_;
};

}  // namespace braise::worker
