// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "runner/launch/command.h"

namespace braise::cli {

/// `braise-worker tool compare`, which tells on standard output whether two jobs or checkpoints are the same to the
/// bit: exit status 0, 1 or 2. With `through`, later steps count for nothing. Errors: core::Error where it ends
/// otherwise.
launch::CommandResult run_compare_tool(const std::filesystem::path& a, const std::filesystem::path& b,
                                       std::optional<std::int64_t> through);

}  // namespace braise::cli
