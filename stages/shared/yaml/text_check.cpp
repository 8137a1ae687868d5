// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/yaml/text_check.h"

#include <algorithm>
#include <cstdio>

namespace braise::yaml {
namespace {

// Columns are counted from the start of a block of this many bytes, so that very long lines cost no more than others.
constexpr std::size_t kBlockBytes = 256;

bool is_continuation(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) == 0x80;
}

struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;  ///< 0: not UTF-8
};

/// The character at the start of a text that is not empty. Overlong forms and surrogates are not UTF-8.
Character decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1};
  std::size_t bytes = 0;
  char32_t code = 0, least = 0;
  if ((first & 0xE0) == 0xC0) {
    bytes = 2, code = first & 0x1F, least = 0x80;
  } else if ((first & 0xF0) == 0xE0) {
    bytes = 3, code = first & 0x0F, least = 0x800;
  } else if ((first & 0xF8) == 0xF0) {
    bytes = 4, code = first & 0x07, least = 0x10000;
  } else {
    return {};
  }
  if (text.size() < bytes) return {};
  for (std::size_t i = 1; i < bytes; ++i) {
    if (!is_continuation(text[i])) return {};
    code = (code << 6) | (byte(i) & 0x3F);
  }
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  if (code < least || code > 0x10FFFF || surrogate) return {};
  return {code, bytes};
}

bool is_printable(char32_t code) {
  if (code < 0x20) return code == '\t' || code == '\n' || code == '\r';
  if (code >= 0x7F && code < 0xA0) return code == 0x85;
  return code != 0xFFFE && code != 0xFFFF;
}

std::string in_hex(const char* format, unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Follows YAML's text just closely enough to tell block context from quotes, flow collections and block scalars.
class BlockScanner {
 public:
  explicit BlockScanner(std::string_view text) : text_(text) {}

  /// Offset of the first tab in the indentation of a block; npos: there is none.
  std::size_t find_tab() {
    std::size_t start = 0;
    while (start < text_.size()) {
      const std::size_t end = std::min(text_.find('\n', start), text_.size());
      const std::string_view line = text_.substr(start, end - start);
      const std::size_t tab = scan_line(line);
      if (tab != std::string_view::npos) return start + tab;
      start = end + 1;
    }
    return std::string_view::npos;
  }

  /// After find_tab has found none: where the quote begins that never ends; npos: there is none.
  std::size_t open_quote() const { return quote_ == 0 ? std::string_view::npos : quote_start_; }

 private:
  static constexpr std::string_view kBlanks = " \t\r";

  std::size_t scan_line(std::string_view line) {
    const std::size_t content = line.find_first_not_of(kBlanks);
    if (content == std::string_view::npos) return content;
    const std::size_t spaces = line.find_first_not_of(' ');
    if (in_block_scalar_) {
      if (static_cast<int>(spaces) > block_scalar_parent_) return std::string_view::npos;
      in_block_scalar_ = false;
    }
    if (quote_ == 0 && flow_depth_ == 0) {
      if (line[content] != '#' && spaces < content) return spaces;
      indent_ = static_cast<int>(content);
      plain_ = false;
      if (line.substr(0, 3) == "---") {
        indent_ = -1;
        scan_tokens(line, 3);
        return std::string_view::npos;
      }
    }
    scan_tokens(line, quote_ == 0 ? content : 0);
    return std::string_view::npos;
  }

  void scan_tokens(std::string_view line, std::size_t i) {
    bool at_token = true;  // whether a token may begin here
    while (i < line.size()) {
      const char c = line[i];
      const char next = i + 1 < line.size() ? line[i + 1] : ' ';
      const bool next_is_blank = kBlanks.find(next) != std::string_view::npos;
      if (quote_ != 0) {
        if (quote_ == '"' && c == '\\') {
          i += 2;
          continue;
        }
        if (quote_ == '\'' && c == '\'' && next == '\'') {
          i += 2;
          continue;
        }
        if (c == quote_) quote_ = 0;
        ++i;
        at_token = false;
        plain_ = false;
        continue;
      }
      if (kBlanks.find(c) != std::string_view::npos) {
        ++i;
        if (!plain_) at_token = true;
        if (i < line.size() && line[i] == '#') return;
        continue;
      }
      if (i == 0 && c == '#') return;
      if (at_token && (c == '"' || c == '\'')) {
        quote_ = c;
        quote_start_ = static_cast<std::size_t>(line.data() - text_.data()) + i;
        ++i;
        continue;
      }
      if (at_token && flow_depth_ == 0 && (c == '|' || c == '>') && is_block_scalar_header(line.substr(i + 1))) {
        in_block_scalar_ = true;
        block_scalar_parent_ = indent_;
        return;
      }
      const bool opens = at_token && (c == '[' || c == '{');
      const bool flow_mark = flow_depth_ > 0 && (c == '[' || c == '{' || c == ']' || c == '}' || c == ',');
      if (opens || flow_mark) {
        if (c == '[' || c == '{') ++flow_depth_;
        if (c == ']' || c == '}') --flow_depth_;
        at_token = c != ']' && c != '}';
        plain_ = false;
        ++i;
        continue;
      }
      if (c == ':' && (next_is_blank || flow_depth_ > 0)) {
        at_token = true;
        plain_ = false;
        ++i;
        continue;
      }
      if (at_token && (c == '-' || c == '?') && next_is_blank && flow_depth_ == 0) {
        // What follows is one level further in; an empty entry keeps the level of its dash.
        const std::size_t inner = line.find_first_not_of(kBlanks, i + 1);
        const bool header = inner != std::string_view::npos && (line[inner] == '|' || line[inner] == '>');
        indent_ = static_cast<int>(inner == std::string_view::npos || header ? i : inner);
        ++i;
        continue;
      }
      if (at_token && (c == '&' || c == '!' || c == '*')) {  // a property: the node itself is still to come
        while (i < line.size() && kBlanks.find(line[i]) == std::string_view::npos) ++i;
        continue;
      }
      plain_ = true;
      at_token = false;
      ++i;
    }
  }

  static bool is_block_scalar_header(std::string_view rest) {
    rest = rest.substr(std::min(rest.find_first_not_of("+-0123456789"), rest.size()));
    const std::size_t content = rest.find_first_not_of(kBlanks);
    return content == std::string_view::npos || (content > 0 && rest[content] == '#');
  }

  std::string_view text_;
  char quote_ = 0;  // the quote that is open
  std::size_t quote_start_ = 0;
  int flow_depth_ = 0;
  bool plain_ = false;  // inside a plain scalar, where quotes are ordinary characters
  int indent_ = -1;     // column of the innermost block collection that the line has entered
  bool in_block_scalar_ = false;
  int block_scalar_parent_ = -1;  // its lines are those indented more than this
};

}  // namespace

LineTable::LineTable(std::string_view text, std::shared_ptr<const std::string> file)
    : text_(text), file_(std::move(file)), starts_{0} {
  std::size_t continuations = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i % kBlockBytes == 0) continuations_.push_back(continuations);
    if (text[i] == '\n') starts_.push_back(i + 1);
    if (is_continuation(text[i])) ++continuations;
  }
  if (text.size() % kBlockBytes == 0) continuations_.push_back(continuations);
}

std::size_t LineTable::characters_before(std::size_t offset) const {
  const std::size_t block = offset / kBlockBytes;
  const std::string_view rest = text_.substr(block * kBlockBytes, offset % kBlockBytes);
  const auto in_rest = std::count_if(rest.begin(), rest.end(), is_continuation);
  return offset - continuations_[block] - static_cast<std::size_t>(in_rest);
}

Mark LineTable::mark(std::size_t offset) const {
  offset = std::min(offset, text_.size());
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), offset);
  const std::size_t column = characters_before(offset) - characters_before(*(next - 1)) + 1;
  return {file_, static_cast<int>(next - starts_.begin()), static_cast<int>(column)};
}

std::optional<ParseFault> find_bad_character(std::string_view text, const LineTable& lines) {
  const bool marked = text.substr(0, 2) == "\xFF\xFE" || text.substr(0, 2) == "\xFE\xFF";
  const bool every_other_nul = text.size() >= 2 && (text[0] == '\0') != (text[1] == '\0');
  if (marked || every_other_nul) {
    return ParseFault{lines.mark(0), "is UTF-16 text", "save the file as UTF-8"};
  }
  for (std::size_t i = 0; i < text.size();) {
    const Character character = decode(text.substr(i));
    if (character.bytes == 0) {
      const auto byte = static_cast<unsigned char>(text[i]);
      return ParseFault{lines.mark(i), "byte " + in_hex("0x%02x", byte) + " is not UTF-8",
                        "save the file as UTF-8 text"};
    }
    if (character.code == 0) return ParseFault{lines.mark(i), "a NUL character", "save the file as UTF-8 text"};
    if (!is_printable(character.code)) {
      return ParseFault{lines.mark(i), "control character U+" + in_hex("%04X", character.code),
                        "remove it, or write it as an escape in double quotes"};
    }
    if (character.code == '\r' && text.substr(i, 2) != "\r\n") {
      return ParseFault{lines.mark(i), "a carriage return that ends no line", "end lines with a line feed"};
    }
    i += character.bytes;
  }
  return std::nullopt;
}

std::string repair_escapes(std::string_view scalar) {
  std::string text;
  for (std::size_t i = 0; i < scalar.size();) {
    const std::size_t bytes = decode(scalar.substr(i)).bytes;
    if (bytes == 0) text += '\xC2';  // with the byte itself, the character of that number
    const std::size_t taken = std::max<std::size_t>(bytes, 1);
    text += scalar.substr(i, taken);
    i += taken;
  }
  return text;
}

std::optional<ParseFault> find_tab_indentation(std::string_view text, const LineTable& lines) {
  const std::size_t tab = BlockScanner(text).find_tab();
  if (tab == std::string_view::npos) return std::nullopt;
  return ParseFault{lines.mark(tab), "a tab in the indentation", "YAML is indented with spaces"};
}

std::size_t find_open_quote(std::string_view text) {
  BlockScanner scanner(text);
  return scanner.find_tab() == std::string_view::npos ? scanner.open_quote() : std::string_view::npos;
}

}  // namespace braise::yaml
