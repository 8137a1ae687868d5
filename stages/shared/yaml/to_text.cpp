// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "stages/shared/yaml/parse.h"

namespace braise::yaml {
namespace {

constexpr std::size_t kIndent = 2;
// YAML limits a key that is not marked by `? ` to 1024 characters, escapes and quotes included.
constexpr std::size_t kLongestPlainKey = 1000;

/// Text in double quotes, by escapes that JSON and YAML share. Control characters that YAML does not allow as they
/// stand are escaped, though JSON would let them pass.
std::string quote(const std::string& text) {
  std::string result = "\"";
  const auto byte = [&text](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto escape = [&result](unsigned code) {
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\u%04x", code);
    result += escaped;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const unsigned c = byte(i);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += text[i];
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\t') {
      result += "\\t";
    } else if (c < 0x20 || c == 0x7F) {
      escape(c);
    } else if (c == 0xC2 && byte(i + 1) < 0xA0) {  // U+0080 to U+009F
      escape(byte(++i));
    } else if (c == 0xEF &&
               ((byte(i + 1) == 0xBF && byte(i + 2) >= 0xBE) || (byte(i + 1) == 0xBB && byte(i + 2) == 0xBF))) {
      escape(((c & 0x0F) << 12) | ((byte(i + 1) & 0x3F) << 6) | (byte(i + 2) & 0x3F));  // U+FFFE, U+FFFF; U+FEFF
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result + "\"";
}

bool is_plain_key(const std::string& key) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  if (key.empty() || !is_letter(key.front()) || key == "null" || key == "Null" || key == "NULL") return false;
  for (const char c : key) {
    if (!is_letter(c) && !(c >= '0' && c <= '9') && c != '-' && c != '.') return false;
  }
  return true;
}

std::string number(const nlohmann::json& value) {
  if (!value.is_number_float()) return value.dump();
  const double real = value.get<double>();
  if (std::isnan(real)) return ".nan";
  if (std::isinf(real)) return real < 0 ? "-.inf" : ".inf";
  return value.dump();
}

/// Appends a value whose first line begins where `text` ends; further lines are indented.
void append(std::string& text, const nlohmann::json& value, std::size_t indent) {
  const std::string margin(indent, ' ');
  const auto is_block = [](const nlohmann::json& item) { return item.is_structured() && !item.empty(); };
  bool first = true;
  const auto begin_line = [&] {
    if (!first) text += margin;
    first = false;
  };
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, item] : value.items()) {
      begin_line();
      const std::string written = is_plain_key(key) ? key : quote(key);
      text += written.size() > kLongestPlainKey ? "? " + written + "\n" + margin + ":" : written + ":";
      if (is_block(item)) {
        text += "\n" + std::string(indent + kIndent, ' ');
      } else {
        text += " ";
      }
      append(text, item, indent + kIndent);
    }
  } else if (value.is_array() && !value.empty()) {
    for (const nlohmann::json& item : value) {
      begin_line();
      text += "- ";
      append(text, item, indent + kIndent);
    }
  } else if (value.is_object()) {
    text += "{}\n";
  } else if (value.is_array()) {
    text += "[]\n";
  } else if (value.is_string()) {
    text += quote(value.get_ref<const std::string&>()) + "\n";
  } else if (value.is_number()) {
    text += number(value) + "\n";
  } else {
    text += value.dump() + "\n";
  }
}

}  // namespace

std::string to_text(const nlohmann::json& value) {
  std::string text;
  append(text, value, 0);
  return text;
}

}  // namespace braise::yaml
