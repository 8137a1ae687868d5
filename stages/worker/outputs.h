// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "stages/api/descriptor.h"
#include "stages/api/stage.h"

namespace braise::worker {

/// Checks that a stage left every output it declared, with its main file first, and makes all files read-only and
/// durable, and their folders too. Errors: core::Error.
void seal_outputs(const std::filesystem::path& attempt_dir, const std::vector<stages::OutputDeclaration>& declared,
                  const stages::Outputs& outputs);

}  // namespace braise::worker
