// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <vector>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

/// The path that a person means: an existing one, or a run's folder, or that of a stage's job in it.
std::string resolved(const std::string& target, const fs::path& runs) {
  if (fs::exists(target)) return target;
  // A run's folder may be a path itself.
  const std::size_t slash = target.rfind('/');
  const journal::RunDirectory run = find_run(target.substr(0, slash), runs);
  if (slash == std::string::npos) return run.path();
  const fs::path job = run.job_dir(target.substr(slash + 1));
  if (!fs::is_directory(job)) {
    throw UsageError("run " + run.id() + " has no job `" + target.substr(slash + 1) + "`; `braise status " + run.id() +
                     "` lists them");
  }
  return job;
}

/// Goes on as `braise-worker tool`: this program links no HDF5.
[[noreturn]] void become_tool(std::vector<std::string> arguments) {
  const std::string worker = worker_program();
  arguments.insert(arguments.begin(), {worker, "tool"});
  std::vector<char*> words;
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  ::execv(worker.c_str(), words.data());
  core::fail_errno("cannot start " + worker);
}

}  // namespace

int inspect(const std::string& target, const fs::path& runs, bool verify, bool json) {
  std::vector<std::string> arguments = {"inspect"};
  if (verify) arguments.push_back("--verify");
  if (json) arguments.push_back("--json");
  arguments.insert(arguments.end(), {"--", resolved(target, runs)});
  become_tool(arguments);
}

int export_checkpoint(const std::string& target, const fs::path& runs, const std::string& to,
                      const std::string& dtype) {
  std::vector<std::string> arguments = {"export", "--to=" + to};
  if (!dtype.empty()) arguments.push_back("--dtype=" + dtype);
  arguments.insert(arguments.end(), {"--", resolved(target, runs)});
  become_tool(arguments);
}

int import_weights(const std::string& path, const std::string& to) {
  become_tool({"import", "--to=" + to, "--", path});
}

int compare(const std::string& a, const std::string& b, const fs::path& runs) {
  become_tool({"compare", "--", resolved(a, runs), resolved(b, runs)});
}

}  // namespace braise::cli
