// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::worker {

/// What ended a rank.
struct Failure {
  int rank = 0;
  std::string host;
  std::string place;  ///< "stages/tokenize/work.cpp:120"; empty where the exception does not tell
  std::string message;

  /// "rank 1 on host n2: stages/tokenize/work.cpp:120: cannot open ...".
  std::string to_string() const;
  nlohmann::json to_json() const;
};

/// The exception that is being handled, as a failure of this rank.
Failure current_failure(int rank, const std::string& host);

/// Leaves failure.<rank>.json in the attempt's folder, on the disk, for whoever started the job.
void record_failure(const std::filesystem::path& attempt_dir, const Failure& failure);

}  // namespace braise::worker
