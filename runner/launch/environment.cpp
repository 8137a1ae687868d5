// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/environment.h"

#include <unistd.h>

#include <cstdlib>
#include <sstream>

namespace braise::launch {
namespace fs = std::filesystem;
namespace {

/// The *_OPTIONS steer sanitizers in test builds; SLURM_CONF says which cluster is meant.
constexpr const char* kKept[] = {
    "PATH",         "HOME",         "USER",         "LOGNAME",         "LANG",
    "LC_ALL",       "LC_CTYPE",     "TZ",           "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS",   "SLURM_CONF"};

}  // namespace

std::vector<std::string> kept_environment() {
  std::vector<std::string> variables;
  for (const char* name : kKept) {
    if (const char* value = std::getenv(name)) variables.push_back(std::string(name) + "=" + value);
  }
  return variables;
}

fs::path find_on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path candidate = fs::path(folder) / program;
    if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) return fs::absolute(candidate);
  }
  return {};
}

}  // namespace braise::launch
