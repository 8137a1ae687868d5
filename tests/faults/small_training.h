// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace braise::test {

/// Writes the recipe `training.yaml`: dict-devil tokenized, and a small Llama trained on it for 150 steps, with a
/// checkpoint every 7.
std::filesystem::path write_training_recipe(const std::filesystem::path& folder);

/// `braise run` of it into `runs`, with these values set.
std::vector<std::string> training_command(const std::filesystem::path& recipe, const std::filesystem::path& runs,
                                          const std::vector<std::string>& set = {});

/// The one run of it there is in `runs`; empty where there is none.
std::filesystem::path training_run_in(const std::filesystem::path& runs);

/// Steps that the attempts at the training have told of, each as often as it was.
std::multiset<std::int64_t> steps_told(const std::filesystem::path& run);

/// Waits, for at most a minute, until the run in `runs` has told of a step; false where `runner` ended before.
bool wait_for_step(const std::filesystem::path& runs, std::int64_t step, pid_t runner);

std::string logs_of(const std::filesystem::path& run);

}  // namespace braise::test
