// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "runner/cli/common.h"
#include "runner/journal/archive.h"
#include "runner/journal/provenance.h"
#include "runner/journal/run_directory.h"

namespace braise::cli {

/// This process's command line.
std::vector<std::string> own_command();

/// What provenance.json tells of this machine and this process.
journal::Provenance own_provenance();

/// Makes a run directory. Of the files, `provenance` is what it tells.
journal::CreatedRun create_run(const std::filesystem::path& runs, const std::string& name, journal::RunFiles files,
                               const journal::Provenance& provenance);

/// Makes the run directory of a planned recipe, with its provenance.
journal::CreatedRun create_run(const RecipeArguments& recipe, const Planned& planned,
                               const std::filesystem::path& runs);

/// Errors: UsageError where the recipe or the plan of a run was edited after the run was made, so that neither says
/// any more what was done.
void refuse_edited(const journal::RunDirectory& run);

/// Unpacks an archive among these runs. Errors: UsageError where it is none, or not one to be unpacked there;
/// core::Error (a full disk).
journal::Unpacked unpack_checked(const std::filesystem::path& file, const std::filesystem::path& runs);

/// Takes the run for this process. Errors: UsageError saying who holds it.
journal::RunLock take_run(const journal::RunDirectory& run);

/// Prints the run's folder as the last line on standard output, whatever way the command ends.
class TellsFolder {
 public:
  explicit TellsFolder(const journal::RunDirectory& run) : path_(run.path()) {}
  ~TellsFolder();
  TellsFolder(const TellsFolder&) = delete;
  TellsFolder& operator=(const TellsFolder&) = delete;

 private:
  std::filesystem::path path_;
};

}  // namespace braise::cli
