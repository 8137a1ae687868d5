// SPDX-License-Identifier: Apache-2.0
#include "stages/api/input_path.h"

namespace braise::stages {
namespace {

constexpr std::string_view kSpecial = "*?[";

/// Whether a character stands escaped at that place: "[*]".
bool is_escape(std::string_view path, std::size_t at) {
  return at + 2 < path.size() && path[at] == '[' && path[at + 2] == ']' && kSpecial.find(path[at + 1]) != kSpecial.npos;
}

}  // namespace

bool is_pattern(std::string_view path) {
  for (std::size_t at = 0; at < path.size(); ++at) {
    if (is_escape(path, at)) {
      at += 2;
    } else if (kSpecial.find(path[at]) != kSpecial.npos) {
      return true;
    }
  }
  return false;
}

bool is_of_this_run(std::string_view path) {
  return path.starts_with("${run.") || path.starts_with("${stages.");
}

std::filesystem::path input_path(const std::string& path) {
  if (std::filesystem::exists(path)) return path;
  std::string literal;
  for (std::size_t at = 0; at < path.size(); ++at) {
    const bool escape = is_escape(path, at);
    literal += path[escape ? at + 1 : at];
    if (escape) at += 2;
  }
  return literal;
}

}  // namespace braise::stages
