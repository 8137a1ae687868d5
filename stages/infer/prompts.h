// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace braise::infer {

/// The prompts that a stage's `prompts` names, in order: its texts, and those of its files. `note` is told what is
/// read. Errors: core::Error naming the file, and the line, for one that cannot be read, holds no prompt, or is not
/// UTF-8.
std::vector<std::string> read_prompts(const nlohmann::json& prompts,
                                      const std::function<void(const std::string&)>& note);

}  // namespace braise::infer
