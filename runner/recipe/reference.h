// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace braise::recipe {

/// A piece of text that may hold references: plain text, or what stood between "${" and "}".
struct TemplatePart {
  enum class Kind { text, vars, env, run, stages };
  Kind kind = Kind::text;
  std::string text;  ///< plain text with `$${` unescaped, or the reference without braces: "vars.width"
  std::vector<std::string> segments;  ///< of a reference: {"vars", "width"}
};

/// A text taken apart.
struct Template {
  std::vector<TemplatePart> parts;
  std::string problem;  ///< why it cannot be taken apart; else empty
  std::string remedy;

  bool ok() const { return problem.empty(); }
  bool is_one_reference() const { return parts.size() == 1 && parts[0].kind != TemplatePart::Kind::text; }
};

/// Whether a text holds anything that is not plain.
inline bool has_reference(std::string_view text) {
  return text.find("${") != std::string_view::npos;
}

Template parse_template(const std::string& text);

/// The text that stands for itself in a recipe: every "${" as "$${".
std::string escape_references(const std::string& text);

/// Splits "a.b.c" at its dots.
std::vector<std::string> split_path(std::string_view path);

}  // namespace braise::recipe
