// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stages/shared/yaml/mark.h"
#include "stages/shared/yaml/parse.h"

namespace braise::yaml {

/// Where the lines of a text begin, to turn byte offsets into lines and columns.
class LineTable {
 public:
  LineTable(std::string_view text, std::shared_ptr<const std::string> file);

  /// The line and the column, in characters, of a byte offset; one past the end is allowed.
  Mark mark(std::size_t offset) const;

 private:
  std::string_view text_;
  std::shared_ptr<const std::string> file_;
  std::vector<std::size_t> starts_;
  std::vector<std::size_t> continuations_;  // how many bytes before each block do not begin a character

  std::size_t characters_before(std::size_t offset) const;
};

/// The first byte that makes the text something else than UTF-8 text of printable characters.
std::optional<ParseFault> find_bad_character(std::string_view text, const LineTable& lines);

/// A scalar as yaml-cpp 0.7 gives it, with the escapes `\N` and `\_` as the characters U+0085 and U+00A0 they stand for:
/// yaml-cpp makes them the single bytes 0x85 and 0xA0. Expects that of UTF-8 text.
std::string repair_escapes(std::string_view scalar);

/// The first tab in the indentation of a block. Tabs inside flow collections, quotes, block scalars, comments and blank
/// lines indent nothing and are left alone. Expects what find_bad_character passes.
std::optional<ParseFault> find_tab_indentation(std::string_view text, const LineTable& lines);

/// Where the quote begins that is still open at the end of the text; npos: none is.
std::size_t find_open_quote(std::string_view text);

}  // namespace braise::yaml
