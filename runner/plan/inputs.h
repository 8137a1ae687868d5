// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runner/plan/make.h"

namespace braise::plan {

/// The regular files that an absolute path or glob names, sorted by name. In a glob, * ? [a-z] match within one name (a
/// leading dot only by a dot), ** any number of folders.
std::vector<std::filesystem::path> expand_glob(const std::string& pattern);

/// Finds inputs on the file system of this machine. Each file is read once, however many jobs name it.
FindInputs file_system_inputs();

}  // namespace braise::plan
