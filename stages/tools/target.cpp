// SPDX-License-Identifier: Apache-2.0
#include "stages/tools/target.h"

#include <algorithm>
#include <charconv>

#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/tools/tools.h"

namespace braise::tools {
namespace {
namespace fs = std::filesystem;

constexpr char kManifest[] = "manifest.json";
constexpr char kTokens[] = "artifacts/tokens.h5";

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) found.push_back(entry.path());
  }
  std::ranges::sort(found);
  return found;
}

/// "12-3fa9c1" is the job's twelfth attempt.
int attempt_number(const fs::path& attempt) {
  const std::string name = attempt.filename();
  int number = 0;
  std::from_chars(name.data(), name.data() + name.size(), number);
  return number;
}

bool is_attempt(const fs::path& path) {
  return path.parent_path().filename() == "attempts" || fs::is_directory(path / "checkpoints");
}

std::vector<fs::path> attempts_of_job(const fs::path& job) {
  std::vector<fs::path> attempts = folders_in(job / "attempts");
  std::ranges::stable_sort(attempts, std::greater<>(), attempt_number);
  return attempts;
}

bool has_checkpoints(const fs::path& job) {
  return std::ranges::any_of(attempts_of_job(job),
                             [](const fs::path& attempt) { return fs::is_directory(attempt / "checkpoints"); });
}

bool is_weight_file(const fs::path& path) {
  const std::string name = path.filename();
  return name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".safetensors.index.json");
}

}  // namespace

std::vector<fs::path> attempts_at(const fs::path& given) {
  const fs::path path = fs::absolute(given).lexically_normal();
  if (fs::is_directory(path / "attempts")) return attempts_of_job(path);
  if (fs::is_directory(path / "jobs")) {
    std::vector<fs::path> jobs;
    for (const fs::path& job : folders_in(path / "jobs")) {
      if (fs::is_directory(job / "attempts")) jobs.push_back(job);
    }
    std::vector<fs::path> wanted;
    std::ranges::copy_if(jobs, std::back_inserter(wanted), has_checkpoints);
    if (wanted.empty()) wanted = jobs;
    if (wanted.size() == 1) return attempts_of_job(wanted[0]);
    std::string names;
    for (const fs::path& job : wanted) names += (names.empty() ? "" : ", ") + job.filename().string();
    throw BadInput(given.string() +
                   (wanted.empty() ? " has no attempts at any job" : " has several jobs: name one of " + names));
  }
  if (fs::is_directory(path) && is_attempt(path)) return {path};
  return {};
}

Target find_target(const fs::path& path) {
  if (!fs::exists(path)) throw BadInput("there is no " + path.string());
  if (fs::is_directory(path)) {
    if (fs::exists(path / kManifest)) return {TargetKind::kCheckpoint, path};
    for (const char* const name : {"model.safetensors", "model.safetensors.index.json"}) {
      if (fs::exists(path / name)) return {TargetKind::kWeights, path / name};
    }
    const std::vector<fs::path> attempts = attempts_at(path);
    const std::vector<checkpoint::Candidate> found = checkpoint::find_checkpoints(attempts);
    if (!found.empty()) return {TargetKind::kCheckpoint, found[0].folder};
    for (const fs::path& attempt : attempts) {
      if (fs::exists(attempt / kTokens)) return {TargetKind::kTokens, attempt / kTokens};
    }
    throw BadInput(path.string() + " holds no checkpoint (" + kManifest +
                   "), no model.safetensors, and is no run, job or attempt that has left one");
  }
  if (is_weight_file(path)) return {TargetKind::kWeights, path};
  if (fs::exists(fs::absolute(path).parent_path() / kManifest))
    return {TargetKind::kCheckpoint, fs::absolute(path).parent_path()};
  if (path.extension() == ".h5") return {TargetKind::kTokens, path};
  throw BadInput(path.string() + " is no checkpoint, weight file (.safetensors, .gguf) or token file (.h5)");
}

}  // namespace braise::tools
