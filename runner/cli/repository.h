// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "runner/journal/provenance.h"

namespace braise::cli {

/// The git repository that a recipe lies in, as it stands now; nothing where there is none, no commit or no git. The
/// folder of runs, and runs elsewhere, are none of its untracked files. Runs git, but nothing that the repository
/// names: no hooks, no drivers of diffs, no filters.
std::optional<journal::Repository> repository_of(const std::filesystem::path& recipe,
                                                 const std::filesystem::path& runs);

}  // namespace braise::cli
