// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

namespace spdlog {
class logger;
}

namespace braise::worker {

/// This rank's log: a line an entry with UTC time and level, on the disk's way as soon as it is written.
class RankLog {
 public:
  /// Errors: core::Error where the file cannot be written.
  explicit RankLog(const std::filesystem::path& path);
  ~RankLog();

  void info(std::string_view message);
  void error(std::string_view message);

 private:
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace braise::worker
