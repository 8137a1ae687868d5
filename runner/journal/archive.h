// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

#include "runner/journal/run_directory.h"

/// A run as one file: a tar archive compressed by zstd, which any tar reads.
namespace braise::journal {

struct Archived {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;  ///< of the files
};

/// Writes the run's folder to `file`, which must not be there yet; a crash or a full disk leaves nothing of that name.
/// Left out: the lock, scratch, and without `checkpoints` their tensors (the manifests, which have every tensor's
/// digest, are kept). Equal folders give equal bytes: paths are sorted, times and owners are not kept. The caller holds
/// the run. Errors: core::Error.
Archived write_archive(const RunDirectory& run, const std::filesystem::path& file, bool checkpoints);

/// Unpacks an archive to a new run directory of the name it has there. Nothing is written outside of that folder: an
/// archive with absolute paths, `..`, symbolic links, devices, hard links to anything but its own files, or more than
/// one folder is refused, as is one that is cut short or has no run in it. Errors: core::Error; nothing is left.
RunDirectory unpack_archive(const std::filesystem::path& file, const std::filesystem::path& runs_dir);

}  // namespace braise::journal
