// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace braise::stages {

/// "0.1.0".
std::string version();

/// The facts of this build: version, commit (with "-dirty" where the tree had changes when it was configured),
/// compiler, build type, flags, target machine, sanitizers, CUDA, version of yaml-cpp. Equal texts mean the same build.
const nlohmann::json& build_facts();

}  // namespace braise::stages
