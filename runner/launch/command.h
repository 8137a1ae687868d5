// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace braise::launch {

/// How a finished command ended.
struct CommandResult {
  int status = 0;  ///< exit status, or 128 + the number of the signal that ended it
  std::string out;
  std::string err;
};

/// Runs a command to its end, without any shell, in `folder` (empty: where this process is), with an empty standard
/// input and the environment `environment` ("NAME=value"). One that takes longer than `patience` is killed.
/// Errors: core::Error where it cannot be started.
CommandResult run_command(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                          const std::vector<std::string>& environment, const std::filesystem::path& folder,
                          std::chrono::milliseconds patience);

}  // namespace braise::launch
