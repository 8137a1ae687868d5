// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Table = std::map<std::string, std::vector<std::string>>;

Table read_table(const std::string& text) {
  Table table;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const std::size_t colon = line.find(':');
    std::istringstream allowed(line.substr(colon + 1));
    auto& entry = table[line.substr(0, colon)];
    for (std::string folder; allowed >> folder;) entry.push_back(folder);
  }
  return table;
}

bool covers(const std::string& folder, const std::string& path) {
  return path == folder || path.starts_with(folder + "/") || path.starts_with(folder + ".");
}

const std::string* owner(const Table& table, const std::string& path) {
  const std::string* best = nullptr;
  for (const auto& [folder, allowed] : table) {
    if (covers(folder, path) && (best == nullptr || folder.size() > best->size())) best = &folder;
  }
  return best;
}

/// Why an include is not allowed; empty where it is.
std::string objection(const Table& table, const std::string& file, const std::string& included) {
  const std::string* folder = owner(table, file);
  if (folder == nullptr) return file + " is in no folder of includes.txt";
  if (covers(*folder, included)) return "";
  for (const std::string& allowed : table.at(*folder)) {
    if (covers(allowed, included)) return "";
  }
  return file + " may not include " + included;
}

/// Headers that only the given folders may include: the command line links no MPI, CUDA or HDF5.
const std::vector<std::pair<std::string, std::vector<std::string>>> kOutside = {
    {"mpi.h", {"kernels/comm", "stages/worker", "tests"}},
    {"hdf5.h", {"stages/tokenize", "stages/shared", "stages/worker", "tests"}},
    {"H5", {"stages/tokenize", "stages/shared", "stages/worker", "tests"}},
    {"dnnl", {"kernels", "stages/shared/machine", "stages/worker", "tests"}},
    {"oneapi/dnnl", {"kernels", "stages/shared/machine", "stages/worker", "tests"}},
    {"cuda", {"kernels"}},
    {"nccl", {"kernels/comm"}},
};

TEST_CASE("every include is allowed by the table") {
  const fs::path root = test::source_dir();
  const Table table = read_table(io::read_file(root / "tests/tree/includes.txt"));
  const std::regex quoted(R"re(^\s*#\s*include\s*"([^"]+)")re");
  const std::regex angled(R"re(^\s*#\s*include\s*<([^>]+)>)re");
  std::size_t files = 0;
  for (const char* top : {"kernels", "stages", "runner", "schemas", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".inc") continue;
      ++files;
      const std::string file = fs::relative(entry.path(), root);
      std::istringstream lines(io::read_file(entry.path()));
      for (std::string line; std::getline(lines, line);) {
        std::smatch match;
        if (std::regex_search(line, match, quoted)) {
          const std::string included = match[1];
          INFO(file << " includes " << included);
          CHECK(fs::exists(root / included));
          CHECK(objection(table, file, included) == "");
        } else if (std::regex_search(line, match, angled)) {
          const std::string included = match[1];
          for (const auto& [prefix, folders] : kOutside) {
            if (!included.starts_with(prefix)) continue;
            INFO(file << " includes <" << included << ">");
            const auto allows = [&](const std::string& folder) { return covers(folder, file); };
            CHECK(std::any_of(folders.begin(), folders.end(), allows));
          }
        }
      }
    }
  }
  CHECK(files > 50);
}

TEST_CASE("the table refuses what it should") {
  const Table table = read_table(io::read_file(test::source_dir() / "tests/tree/includes.txt"));
  CHECK(objection(table, "kernels/core/error.cpp", "stages/api/job.h") != "");
  CHECK(objection(table, "stages/check/work.cpp", "stages/tokenize/work.h") != "");
  CHECK(objection(table, "stages/api/job.cpp", "runner/plan/plan.h") != "");
  CHECK(objection(table, "runner/plan/plan.cpp", "runner/journal/replay.h") != "");
  CHECK(objection(table, "runner/plan/plan.cpp", "stages/tokenize/work.h") != "");
  CHECK(objection(table, "nowhere/x.cpp", "runner/plan/plan.h") != "");
  CHECK(objection(table, "runner/plan/plan.cpp", "runner/recipe/recipe.h") == "");
}

}  // namespace
}  // namespace braise
