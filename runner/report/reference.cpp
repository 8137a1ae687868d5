// SPDX-License-Identifier: Apache-2.0
#include "runner/report/reference.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "schemas/schemas.h"
#include "stages/registry.h"

namespace braise::report {
namespace {

using nlohmann::json;

/// Markdown table cells cannot hold a bare bar.
std::string cell(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == '|' ? std::string("\\|") : std::string(1, c);
  return result;
}

std::string code(const std::string& text) {
  return "`" + text + "`";
}

bool is_reference(const json& alternative) {
  return alternative.contains("$ref") && alternative["$ref"].get<std::string>().ends_with("/reference");
}

std::string bounds(const json& schema) {
  const auto number = [&](const char* key) { return schema.at(key).dump(); };
  std::string text;
  if (schema.contains("minimum")) text += " from " + number("minimum");
  if (schema.contains("exclusiveMinimum")) text += " above " + number("exclusiveMinimum");
  if (schema.contains("maximum")) text += " to " + number("maximum");
  if (schema.contains("exclusiveMaximum")) text += " below " + number("exclusiveMaximum");
  if (schema.contains("minItems")) text += ", at least " + number("minItems");
  if (schema.contains("pattern")) text += " like " + code(schema["pattern"].get<std::string>());
  return text;
}

/// What values a schema admits, in words.
std::string type_text(const json& schema) {
  if (schema.contains("const")) return code(schema["const"].dump());
  if (schema.contains("enum")) {
    std::string text;
    for (const json& value : schema["enum"])
      text += (text.empty() ? "" : ", ") + code(value.is_string() ? value.get<std::string>() : value.dump());
    return text;
  }
  if (schema.contains("anyOf")) {
    std::string text;
    for (const json& alternative : schema["anyOf"]) {
      if (is_reference(alternative) || alternative.contains("$ref")) continue;  // units are told by x-unit
      text += (text.empty() ? "" : "; or ") + type_text(alternative);
    }
    if (schema.contains("x-unit")) {
      const std::string unit = schema["x-unit"];
      text += unit == "bytes"     ? "; a size (`2GiB`)"
              : unit == "seconds" ? "; a time in seconds (`90s`)"
                                  : "; a count (`10k`)";
    }
    return text;
  }
  if (schema.contains("allOf")) return "map";
  const std::string type = schema.value("type", "any");
  if (type == "integer") return "whole number" + bounds(schema);
  if (type == "number") return "number" + bounds(schema);
  if (type == "boolean") return "true or false";
  if (type == "array") {
    return "list" + (schema.contains("items") ? " of " + type_text(schema["items"]) : std::string()) + bounds(schema);
  }
  if (type == "object") return "map";
  return type + bounds(schema);
}

std::string default_text(const json& schema, bool required) {
  if (schema.contains("default")) return code(schema["default"].dump());
  if (schema.contains("x-default")) return "that of " + code(schema["x-default"].get<std::string>());
  return required ? "required" : "none";
}

std::string example_text(const json& schema) {
  std::string text;
  for (const json& example : schema.value("examples", json::array()))
    text += (text.empty() ? "" : " ") + code(example.dump());
  return text;
}

void rows(const json& schema, const std::string& prefix, std::string& page) {
  const json required = schema.value("required", json::array());
  for (const auto& [key, property] : schema.at("properties").items()) {
    const bool is_required = std::find(required.begin(), required.end(), key) != required.end();
    page += "| " + code(prefix + key) + " | " + cell(type_text(property)) + " | " +
            cell(default_text(property, is_required)) + " | " + cell(property.value("description", "")) + " | " +
            cell(example_text(property)) + " |\n";
    if (property.contains("properties")) rows(property, prefix + key + ".", page);
  }
}

void section(const std::string& title, const json& schema, std::string& page) {
  page += "\n## " + title + "\n\n";
  if (schema.contains("description")) page += schema["description"].get<std::string>() + "\n\n";
  page += "| key | values | default | meaning | example |\n|---|---|---|---|---|\n";
  rows(schema, "", page);
}

}  // namespace

std::string reference_page() {
  std::string page =
      "# The recipe language\n\n"
      "<!-- Made from schemas/ by `braise schema --reference`; edit the schemas, not this page. -->\n\n"
      "Every key, its values, its default and its meaning. Any scalar may also be a reference:\n";
  const json& reference = schemas::schema("types.schema.json")["definitions"]["reference"];
  page += reference["description"].get<std::string>() + "\n";
  page += "\nQuantities may carry a unit.\n\n";
  for (const char* unit : {"bytes", "seconds", "count"}) {
    page += std::string("* ") + unit + ": " +
            schemas::schema("types.schema.json")["definitions"][unit]["description"].get<std::string>() + "\n";
  }
  section("The recipe", schemas::schema("recipe.schema.json"), page);
  section("`resources`", schemas::schema("resources.schema.json"), page);
  section("`slurm`", schemas::schema("slurm.schema.json"), page);
  for (const stages::StageDescriptor* kind : stages::registry()) {
    section("Stage kind `" + std::string(kind->kind) + "`",
            schemas::schema("stage." + std::string(kind->kind) + ".schema.json"), page);
    page += "\nOutputs:\n\n";
    for (const stages::OutputDeclaration& output : kind->outputs) {
      page += "* " + code("${stages.<name>." + output.name + "}") + ": " + output.description + "\n";
    }
  }
  section("The site file", schemas::schema("site.schema.json"), page);
  return page;
}

}  // namespace braise::report
