// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/archive.h"

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/report/format.h"

namespace braise::cli {
namespace fs = std::filesystem;

int archive(const std::string& name, const fs::path& runs, const std::string& to, bool checkpoints) {
  const journal::RunDirectory run = find_run(name, runs);
  refuse_in_use(run);
  const journal::RunLock lock = take_run(run);
  const fs::path file = to.empty() ? fs::path(run.id() + ".tar.zst") : fs::path(to);
  if (fs::exists(file)) throw UsageError(file.string() + " is there already; name another file with --to");
  const journal::Archived archived = journal::write_archive(run, file, checkpoints);
  print(file.string() + ": " + std::to_string(archived.files) + " files, " + report::bytes_text(archived.bytes) +
        (checkpoints ? "\n" : ", without the tensors of checkpoints\n"));
  return kSuccess;
}

int unpack(const std::string& file, const fs::path& runs) {
  if (!fs::is_regular_file(file)) throw UsageError("there is no file " + file);
  journal::sweep(runs);
  try {
    print(journal::unpack_archive(file, runs).path().string() + "\n");
  } catch (const core::Error& error) {
    throw UsageError(error.what());
  }
  return kSuccess;
}

}  // namespace braise::cli
