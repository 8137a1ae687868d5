// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

namespace braise::recipe {

/// A recipe larger than this, with all it includes, is refused; unread, where one file is.
constexpr std::size_t kMaxSourceBytes = 8 << 20;

/// The text of a file, or why there is none.
struct SourceText {
  std::optional<std::string> text;
  std::string problem;  ///< "is a folder"
  std::string remedy;
};

/// Reads a regular file of at most `limit` bytes. Nothing else is opened for longer than it takes to see what it is.
SourceText read_source(const std::filesystem::path& path, std::size_t limit);

}  // namespace braise::recipe
