// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include <cstdio>

#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/report/format.h"

namespace braise::cli {
namespace fs = std::filesystem;

int archive(const std::string& name, const fs::path& runs, const std::string& to, bool checkpoints) {
  const journal::RunDirectory run = find_run(name, runs);
  refuse_in_use(run);
  refuse_edited(run);
  const journal::RunLock lock = take_run(run);
  const fs::path file = to.empty() ? fs::path(run.id() + ".tar.zst") : fs::path(to);
  if (fs::exists(file)) throw UsageError(file.string() + " is there already; name another file with --to");
  const fs::path folder = fs::absolute(file).parent_path();
  if (!fs::is_directory(folder)) {
    throw UsageError("there is no folder " + folder.string() + "; make it, or name another file with --to");
  }
  const journal::Archived archived = journal::write_archive(run, file, checkpoints);
  for (const std::string& job : archived.gone) {
    std::fprintf(stderr,
                 "the run that %s was reused from is gone, so a rerun of the archive cannot compare its steps\n",
                 job.c_str());
  }
  print(file.string() + ": " + std::to_string(archived.files) + " files, " + report::bytes_text(archived.bytes) +
        (checkpoints ? "\n" : ", without the tensors of checkpoints\n"));
  return kSuccess;
}

journal::Unpacked unpack_checked(const fs::path& file, const fs::path& runs) {
  journal::sweep(runs);
  try {
    return journal::unpack_archive(file, runs);
  } catch (const journal::BadArchive& error) {
    throw UsageError(error.what());
  }
}

int unpack(const std::string& file, const fs::path& runs) {
  if (!fs::is_regular_file(file)) throw UsageError("there is no file " + file);
  const journal::Unpacked unpacked = unpack_checked(file, runs);
  if (!unpacked.is_new) std::fprintf(stderr, "it was unpacked before\n");
  print(unpacked.run.path().string() + "\n");
  return kSuccess;
}

}  // namespace braise::cli
