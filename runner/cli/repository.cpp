// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/repository.h"

#include <chrono>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "runner/journal/finished.h"
#include "runner/launch/command.h"
#include "runner/launch/environment.h"
#include "stages/shared/io/digest.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;

/// A repository that takes longer to look at is left out, rather than a run held up.
constexpr std::chrono::seconds kPatience{10};

/// Options that take from every filter what it would run.
std::vector<std::string> without_filters(const std::string& keys) {
  std::vector<std::string> options;
  std::istringstream lines(keys);
  for (std::string key; std::getline(lines, key, '\0');) {
    options.insert(options.end(), {"-c", key + "=" + (key.ends_with(".required") ? "false" : "")});
  }
  return options;
}

/// What git prints; nothing where it fails.
std::optional<std::string> ask(const fs::path& git, const fs::path& folder, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {"--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"});
  try {
    const launch::CommandResult result =
        launch::run_command(git, arguments, launch::kept_environment(), folder, kPatience);
    if (result.status == 0) return result.out;
  } catch (const core::Error&) {
    // A git that cannot be started tells nothing.
  }
  return std::nullopt;
}

std::string without_line_end(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

/// The run directory that a file lies in, or the index beside run directories, relative to `root` and with a slash at
/// its end; empty: none.
std::string run_above(const fs::path& root, const std::string& name) {
  for (std::size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const fs::path folder = root / name.substr(0, slash);
    if (journal::RunDirectory::is_run(folder) || folder.filename() == journal::FinishedIndex::kFolder) {
      return name.substr(0, slash + 1);
    }
  }
  return "";
}

/// Tells the files that git neither tracks nor ignores, but those of runs.
void add_untracked(const fs::path& git, const fs::path& runs, journal::Repository& repository) {
  const fs::path root = repository.root;
  std::vector<std::string> arguments = {"ls-files", "--others", "--exclude-standard", "-z", "--", "."};
  const fs::path below = fs::weakly_canonical(runs).lexically_relative(root);
  if (!below.empty() && *below.begin() != ".." && below != ".") {
    arguments.push_back(":(exclude,literal)" + below.string());
  }
  const std::optional<std::string> names = ask(git, root, arguments);
  std::uint64_t left = journal::kMaximalDigested;
  std::istringstream list(names.value_or(""));
  repository.untracked_is_cut = !names;
  std::string run;
  for (std::string name; std::getline(list, name, '\0');) {
    if (!run.empty() && name.starts_with(run)) continue;
    if (run = run_above(root, name); !run.empty()) continue;
    if (repository.untracked.size() == journal::kMaximalUntracked) {
      repository.untracked_is_cut = true;
      return;
    }
    journal::Repository::Untracked& file = repository.untracked[name];
    std::error_code error;
    if (!fs::is_regular_file(fs::symlink_status(root / name, error))) continue;
    const std::uintmax_t bytes = fs::file_size(root / name, error);
    if (error) continue;
    file.bytes = bytes;
    if (bytes > left) continue;
    try {
      file.sha256 = io::digest_file(root / name).sha256;
      left -= file.bytes;
    } catch (const core::Error&) {
      // One that cannot be read is told without a digest.
    }
  }
}

}  // namespace

std::optional<journal::Repository> repository_of(const fs::path& recipe, const fs::path& runs) {
  const fs::path git = launch::find_on_path("git");
  if (git.empty()) return std::nullopt;
  const fs::path folder = fs::absolute(recipe).parent_path();
  const auto root = ask(git, folder, {"rev-parse", "--show-toplevel"});
  const auto commit = ask(git, folder, {"rev-parse", "--verify", "HEAD"});
  const std::string filters =
      ask(git, folder, {"config", "--null", "--name-only", "--get-regexp", "^filter\\."}).value_or("");
  std::vector<std::string> arguments = without_filters(filters);
  arguments.insert(arguments.end(), {"diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"});
  const auto diff = ask(git, folder, arguments);
  if (!root || !commit || !diff) return std::nullopt;
  journal::Repository repository;
  repository.root = without_line_end(*root);
  repository.commit = without_line_end(*commit);
  repository.diff = *diff;
  if (repository.diff.size() > journal::kMaximalDiff) {
    repository.diff.resize(journal::kMaximalDiff);
    repository.diff_is_cut = true;
  }
  add_untracked(git, runs, repository);
  return repository;
}

}  // namespace braise::cli
