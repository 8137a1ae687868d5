// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace braise::tools {

enum class TargetKind { kCheckpoint, kWeights, kTokens };

/// What a path stands for.
struct Target {
  TargetKind kind = TargetKind::kCheckpoint;
  std::filesystem::path path;  ///< the checkpoint's folder; the weights' or tokens' file
};

/// The attempts, latest first, of the one job that a run's, job's or attempt's folder means (of an attempt: it alone);
/// empty where the path is no such folder. Errors: BadInput where a run has several jobs with attempts that trained.
std::vector<std::filesystem::path> attempts_at(const std::filesystem::path& path);

/// A checkpoint's folder or any file in it, an HF directory, a weight or token file; of a run, a job or an attempt the
/// newest checkpoint, else its token file. Errors: BadInput where it is none.
Target find_target(const std::filesystem::path& path);

}  // namespace braise::tools
