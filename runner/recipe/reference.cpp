// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/reference.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "stages/api/fault.h"

namespace braise::recipe {
namespace {

using Kind = TemplatePart::Kind;

constexpr std::pair<const char*, Kind> kRoots[] = {
    {"vars", Kind::vars}, {"env", Kind::env}, {"run", Kind::run}, {"stages", Kind::stages}};

bool is_name(const std::string& text) {
  const auto is_name_character = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  return !text.empty() && std::all_of(text.begin(), text.end(), is_name_character);
}

/// Fills in kind and segments of a reference; says what is wrong with it, or nothing.
std::pair<std::string, std::string> analyse(TemplatePart& part) {
  const std::string shown = "`${" + stages::printable(part.text, 60) + "}`";
  constexpr const char* kForms =
      "references are ${vars.NAME}, ${env.NAME}, ${stages.STAGE.OUTPUT}, ${run.dir} and ${run.scratch}";
  part.segments = split_path(part.text);
  if (!std::all_of(part.segments.begin(), part.segments.end(), is_name)) return {shown + " is not a reference", kForms};
  const auto root = std::find_if(std::begin(kRoots), std::end(kRoots),
                                 [&](const auto& entry) { return part.segments[0] == entry.first; });
  if (root == std::end(kRoots)) {
    std::vector<std::string> roots;
    for (const auto& [name, kind] : kRoots) roots.emplace_back(name);
    const std::string near = stages::nearest(part.segments[0], roots);
    if (near.empty()) return {shown + " refers to nothing", kForms};
    std::string meant = near;
    for (std::size_t i = 1; i < part.segments.size(); ++i) meant += "." + part.segments[i];
    return {shown + " refers to nothing", "did you mean `${" + stages::printable(meant, 60) + "}`?"};
  }
  part.kind = root->second;
  const std::size_t count = part.segments.size();
  if (part.kind == Kind::vars && count < 2) return {shown + " names no variable", "write `${vars.NAME}`"};
  if (part.kind == Kind::env && count != 2) return {shown + " names no environment variable", "write `${env.NAME}`"};
  if (part.kind == Kind::stages && count != 3) {
    return {shown + " names no output of a stage", "write `${stages.STAGE.OUTPUT}`"};
  }
  if (part.kind == Kind::run && (count != 2 || (part.segments[1] != "dir" && part.segments[1] != "scratch"))) {
    return {shown + " refers to nothing", "there are `${run.dir}` and `${run.scratch}`"};
  }
  return {};
}

}  // namespace

Template parse_template(const std::string& text) {
  Template result;
  std::string plain;
  const auto end_plain = [&] {
    if (!plain.empty()) result.parts.push_back({Kind::text, std::exchange(plain, {}), {}});
  };
  for (std::size_t i = 0; i < text.size();) {
    if (text.compare(i, 3, "$${") == 0) {
      plain += "${";
      i += 3;
    } else if (text.compare(i, 2, "${") == 0) {
      const std::size_t end = text.find('}', i);
      if (end == std::string::npos) {
        result.problem = "`${` is not closed by `}`";
        result.remedy = "close it, or write `$${` for the characters themselves";
        return result;
      }
      end_plain();
      TemplatePart part;
      part.text = text.substr(i + 2, end - i - 2);
      std::tie(result.problem, result.remedy) = analyse(part);
      if (!result.ok()) return result;
      result.parts.push_back(std::move(part));
      i = end + 1;
    } else {
      plain += text[i++];
    }
  }
  end_plain();
  return result;
}

std::string escape_references(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "${") == 0) result += '$';
    result += text[i];
  }
  return result;
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> segments;
  std::size_t start = 0;
  while (true) {
    const std::size_t dot = path.find('.', start);
    segments.emplace_back(path.substr(start, dot - start));
    if (dot == std::string_view::npos) return segments;
    start = dot + 1;
  }
}

}  // namespace braise::recipe
