// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/attempt.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/io/host.h"

namespace braise::worker {
namespace fs = std::filesystem;
namespace {

/// "3-1f9a" as (3, "1f9a").
std::optional<std::pair<int, std::string>> parse_name(const std::string& name) {
  const std::size_t dash = name.find('-');
  if (dash == std::string::npos || dash + 1 == name.size()) return std::nullopt;
  int number = 0;
  const auto [stop, failed] = std::from_chars(name.data(), name.data() + dash, number);
  if (failed != std::errc() || stop != name.data() + dash || number < 1) return std::nullopt;
  return std::pair(number, name.substr(dash + 1));
}

std::vector<fs::path> attempts_before(int number, const fs::path& folder) {
  std::vector<std::pair<int, fs::path>> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto name = parse_name(entry.path().filename().string());
    if (name && name->first < number && entry.is_directory()) found.emplace_back(name->first, entry.path());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  std::vector<fs::path> folders;
  for (auto& [earlier, path] : found) folders.push_back(std::move(path));
  return folders;
}

}  // namespace

Attempt attempt_at(const fs::path& job_file, const fs::path& attempt_dir, const std::string& job) {
  const fs::path job_dir = fs::absolute(job_file).lexically_normal().parent_path();
  Attempt attempt;
  attempt.dir = fs::absolute(attempt_dir).lexically_normal();
  if (attempt.dir.filename().empty()) attempt.dir = attempt.dir.parent_path();
  if (job_dir.filename() != job || job_dir.parent_path().filename() != "jobs") {
    throw core::Error(job_file.string() + " is the file of job '" + job + "', which must lie in <run>/jobs/" + job);
  }
  const auto name = parse_name(attempt.dir.filename().string());
  if (!name || attempt.dir.parent_path() != job_dir / "attempts" || !fs::is_directory(attempt.dir)) {
    throw core::Error(attempt_dir.string() + " is not the folder of an attempt: it must be there, and be named " +
                      (job_dir / "attempts").string() + "/<number>-<token>");
  }
  attempt.number = name->first;
  attempt.token = name->second;
  attempt.run_dir = job_dir.parent_path().parent_path();
  const std::string unique = job + "-" + attempt.dir.filename().string();
  attempt.scratch_dir = attempt.run_dir / "scratch" / unique;
  attempt.journal = attempt.run_dir / "journal" / (unique + ".jsonl");
  attempt.earlier = attempts_before(attempt.number, attempt.dir.parent_path());
  return attempt;
}

void use_node_scratch(Attempt& attempt, const std::string& folder, const std::string& job) {
  const auto in_name = [](char c) { return c == '_' || (std::isalnum(static_cast<unsigned char>(c)) != 0); };
  std::string path;
  for (std::size_t i = 0; i < folder.size();) {
    if (folder[i] != '$') {
      path += folder[i++];
      continue;
    }
    const bool braced = i + 1 < folder.size() && folder[i + 1] == '{';
    const std::size_t begin = i + (braced ? 2 : 1);
    std::size_t end = begin;
    while (end < folder.size() && in_name(folder[end])) ++end;
    const std::string name = folder.substr(begin, end - begin);
    const char* const value = std::getenv(name.c_str());
    if (value == nullptr || (braced && (end == folder.size() || folder[end] != '}'))) {
      throw core::Error("the scratch folder `" + folder + "` of the site file: there is no variable `" + name +
                        "` on node " + io::node_name());
    }
    path += value;
    i = end + (braced ? 1 : 0);
  }
  attempt.scratch_dir =
      fs::path(path) / (attempt.run_dir.filename().string() + "-" + job + "-" + attempt.dir.filename().string());
  if (!attempt.scratch_dir.is_absolute()) {
    throw core::Error("the scratch folder `" + folder + "` of the site file is no absolute path on node " +
                      io::node_name() + ": " + path);
  }
  attempt.node_scratch = true;
}

void put_in_places(nlohmann::json& config, const Attempt& attempt) {
  if (config.is_structured()) {
    for (nlohmann::json& value : config) put_in_places(value, attempt);
  }
  if (!config.is_string()) return;
  std::string& text = config.get_ref<std::string&>();
  for (const auto& [reference, place] :
       {std::pair<std::string, fs::path>("${run.dir}", attempt.run_dir), {"${run.scratch}", attempt.scratch_dir}}) {
    if (!text.starts_with(reference)) continue;
    text.replace(0, reference.size(), place.string());
    return;
  }
}

}  // namespace braise::worker
