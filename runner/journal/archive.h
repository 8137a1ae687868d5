// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "runner/journal/run_directory.h"

/// A run as one file: a tar archive compressed by zstd, which any tar reads.
namespace braise::journal {

struct Archived {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;        ///< of the files
  std::vector<std::string> gone;  ///< jobs reused from a run that is not there any more, with what it told of them
};

/// Writes the run's folder to `file`, which must not be there yet; a crash or a full disk leaves nothing of that name.
/// Left out: the lock, scratch, and without `checkpoints` their tensors (the manifests, which have every tensor's
/// digest, are kept). What other runs told of jobs that are reused from them is put into the folder `reused`.
/// Equal folders give equal bytes: paths are sorted, times and owners are not kept. The caller holds the run.
/// Errors: core::Error.
Archived write_archive(const RunDirectory& run, const std::filesystem::path& file, bool checkpoints);

/// A file that is no archive of a run, or a hostile one. What the machine cannot do (a full disk) is another Error.
class BadArchive : public core::Error {
 public:
  using core::Error::Error;
};

struct Unpacked {
  RunDirectory run;
  bool is_new = true;  ///< false: it was there already, with all that the archive has
};

/// Unpacks an archive to a run directory of the name it has there; one that is there is used if every file of the
/// archive is in it. Nothing is written outside of that folder: an archive with absolute paths, `..`, symbolic links,
/// devices, hard links to anything but its own files, or more than one folder is refused, as is one that is cut short,
/// has no run in it or one whose files were edited. All is looked through before anything is written: where the disk
/// has no room for what the entries say they hold, it is refused, and no more than that is written.
/// Errors: BadArchive, core::Error; nothing is left.
Unpacked unpack_archive(const std::filesystem::path& file, const std::filesystem::path& runs_dir);

}  // namespace braise::journal
