// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "stages/shared/yaml/mark.h"

namespace braise::stages {

/// Something wrong in what a user wrote: a value to be collected, never an exception.
struct Fault {
  yaml::Mark at;
  std::string path;     ///< dotted path in the recipe, "stages.pretrain.steps"; empty: the document
  std::string problem;  ///< what is wrong: "is 0"
  std::string remedy;   ///< what would be right: "must be a whole number from 1"
};

using Faults = std::vector<Fault>;

/// "file:line:column: path: problem; remedy". Parts that are not known are left out; control characters are escaped.
std::string to_string(const Fault& fault);

/// One fault a line, in the order of file, line and column, each once.
std::string to_string(const Faults& faults);

/// Makes user text safe and short enough for a message: control characters as \n or \x1b, at most `limit` characters.
std::string printable(const std::string& text, std::size_t limit = 80);

/// The candidate nearest to `word` by edit distance, where one is near enough to be meant; else empty.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace braise::stages
