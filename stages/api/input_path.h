// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace braise::stages {

/// Whether an input's path names files by a pattern: it has one of *?[ that is not escaped, as "[*]".
bool is_pattern(std::string_view path);

/// Whether it is what another stage of the run leaves.
bool is_of_this_run(std::string_view path);

/// The file or folder that an input's path names, where it is no pattern. Planning puts the folder of the recipe before
/// relative paths, escaped; what is there under the very name is taken as it is.
std::filesystem::path input_path(const std::string& path);

}  // namespace braise::stages
