// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace braise::launch {

/// What of this process's environment the programs that it starts see, as "NAME=value": a short list, so that a run
/// does not depend on the shell it was started from.
std::vector<std::string> kept_environment();

/// The program on PATH, an absolute path; empty where there is none.
std::filesystem::path find_on_path(const std::string& program);

}  // namespace braise::launch
