// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/outputs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::worker {
namespace fs = std::filesystem;
namespace {

void seal(const fs::path& path, std::uint64_t bytes) {
  const io::FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) core::fail_errno("output is missing: " + path.string());
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) core::fail_errno("cannot stat " + path.string());
  if (static_cast<std::uint64_t>(status.st_size) != bytes) {
    throw core::Error("output " + path.string() + " has " + std::to_string(status.st_size) + " bytes, not the " +
                      std::to_string(bytes) + " that its stage told");
  }
  if (::fchmod(file.get(), 0444) != 0) core::fail_errno("cannot make read-only " + path.string());
  if (::fsync(file.get()) != 0) core::fail_errno("cannot sync " + path.string());
}

}  // namespace

void seal_outputs(const fs::path& attempt_dir, const std::vector<stages::OutputDeclaration>& declared,
                  const stages::Outputs& outputs) {
  for (const stages::OutputDeclaration& declaration : declared) {
    const auto found = outputs.find(declaration.name);
    if (found == outputs.end() || found->second.files.empty() || found->second.files[0].path != declaration.path) {
      throw core::Error("the stage did not leave its output `" + declaration.name + "` at " + declaration.path);
    }
  }
  std::set<fs::path> folders = {attempt_dir};
  for (const auto& [name, output] : outputs) {
    for (const stages::OutputFile& file : output.files) {
      seal(attempt_dir / file.path, file.bytes);
      folders.insert((attempt_dir / file.path).parent_path());
    }
  }
  for (const fs::path& folder : folders) io::sync_directory(folder);
}

}  // namespace braise::worker
