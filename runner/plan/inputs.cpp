// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/inputs.h"

#include <fnmatch.h>

#include <algorithm>
#include <memory>
#include <system_error>

#include "kernels/core/error.h"
#include "stages/api/fault.h"
#include "stages/shared/io/digest.h"

namespace braise::plan {
namespace {
namespace fs = std::filesystem;

bool is_glob(const std::string& text) {
  return text.find_first_of("*?[") != std::string::npos;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  return names;
}

void expand(const fs::path& folder, std::vector<std::string>::const_iterator part,
            std::vector<std::string>::const_iterator end, std::vector<fs::path>& found) {
  std::error_code error;
  if (part == end) {
    if (fs::is_regular_file(folder, error)) found.push_back(folder);
    return;
  }
  if (*part == "**") {
    expand(folder, part + 1, end, found);
    for (const std::string& name : names_in(folder)) {
      const fs::path path = folder / name;
      // Links are not followed: they could lead back up for ever.
      if (name[0] != '.' && fs::is_directory(fs::symlink_status(path, error))) expand(path, part, end, found);
    }
    return;
  }
  if (!is_glob(*part)) {
    if (fs::exists(folder / *part, error)) expand(folder / *part, part + 1, end, found);
    return;
  }
  for (const std::string& name : names_in(folder)) {
    if (::fnmatch(part->c_str(), name.c_str(), FNM_PERIOD) == 0) expand(folder / name, part + 1, end, found);
  }
}

struct Known {
  std::map<std::string, io::FileDigest> digests;
};

std::vector<stages::InputFile> find(Known& known, const stages::InputPattern& pattern, std::string& problem,
                                    std::string& remedy) {
  std::error_code error;
  std::vector<fs::path> paths;
  const std::string shown = "`" + stages::printable(pattern.pattern, 400) + "`";
  const fs::path literal(pattern.pattern);
  if (fs::exists(literal, error)) {
    if (fs::is_directory(literal, error)) {
      problem = shown + " is a folder";
      remedy = "name files in it, for example `" + stages::printable((literal / "*.txt").string(), 400) + "`";
      return {};
    }
    if (!fs::is_regular_file(literal, error)) {
      problem = shown + " is not a regular file";
      remedy = "name a file";
      return {};
    }
    paths.push_back(literal);
  } else if (is_glob(pattern.pattern)) {
    paths = expand_glob(pattern.pattern);
  }
  if (paths.empty()) {
    problem = is_glob(pattern.pattern) ? "no file matches " + shown : "there is no file " + shown;
    remedy = "relative paths start at the folder of the recipe";
    return {};
  }
  if (!pattern.sha256.empty() && paths.size() != 1) {
    problem = shown + " matches " + std::to_string(paths.size()) + " files, but one `sha256` is given";
    remedy = "give each file an entry of its own";
    return {};
  }
  std::vector<stages::InputFile> files;
  for (const fs::path& path : paths) {
    auto found = known.digests.find(path);
    if (found == known.digests.end()) {
      try {
        found = known.digests.emplace(path, io::digest_file(path)).first;
      } catch (const core::Error& failure) {
        problem = stages::printable(failure.what(), 400);
        remedy = "make the file readable";
        return {};
      }
    }
    files.push_back({path, found->second.bytes, found->second.sha256});
  }
  if (!pattern.sha256.empty() && files.front().sha256 != pattern.sha256) {
    problem = shown + " has the SHA-256 " + files.front().sha256;
    remedy = "the recipe pins " + pattern.sha256 + ": get that file, or change the pin if the new one is meant";
    return {};
  }
  return files;
}

}  // namespace

std::vector<fs::path> expand_glob(const std::string& pattern) {
  std::vector<std::string> parts;
  for (const fs::path& part : fs::path(pattern).relative_path()) {
    if (!part.empty()) parts.push_back(part.string());
  }
  std::vector<fs::path> found;
  expand("/", parts.begin(), parts.end(), found);
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

FindInputs file_system_inputs() {
  return [known = std::make_shared<Known>()](const stages::InputPattern& pattern, std::string& problem,
                                             std::string& remedy) { return find(*known, pattern, problem, remedy); };
}

}  // namespace braise::plan
