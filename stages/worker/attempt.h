// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "stages/api/job.h"

namespace braise::worker {

/// One attempt at a job and where everything of it lies, see the run directory in stages/README.md.
struct Attempt {
  std::filesystem::path run_dir;
  std::filesystem::path dir;          ///< <run>/jobs/<job>/attempts/<number>-<token>
  std::filesystem::path scratch_dir;  ///< <run>/scratch/<job>-<number>-<token>, or a folder of each node
  bool node_scratch = false;          ///< each node has its own
  std::filesystem::path journal;      ///< <run>/journal/<job>-<number>-<token>.jsonl
  int number = 0;
  std::string token;
  std::optional<std::int64_t>
      ends_us;  ///< when its time is over, as microseconds since 1970; nothing: never, as far as known
  std::vector<std::filesystem::path> earlier;  ///< folders of attempts with smaller numbers, latest first
};

/// Works all of it out from the two paths of the command line.
/// Errors: core::Error where the folders do not lie as they should or the attempt's is missing.
Attempt attempt_at(const std::filesystem::path& job_file, const std::filesystem::path& attempt_dir,
                   const std::string& job);

/// Makes the scratch folder one of each node: below `folder`, in which `$NAME` and `${NAME}` stand for variables of
/// this process's environment. Errors: core::Error where there is no such variable.
void use_node_scratch(Attempt& attempt, const std::string& folder, const std::string& job);

/// Puts the attempt's own places where strings of the configuration begin with "${run.dir}" or "${run.scratch}".
void put_in_places(nlohmann::json& config, const Attempt& attempt);

}  // namespace braise::worker
