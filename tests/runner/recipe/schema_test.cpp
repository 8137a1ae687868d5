// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/schema.h"

#include <catch2/catch.hpp>
#include <functional>
#include <set>

#include "kernels/core/error.h"
#include "schemas/schemas.h"
#include "stages/registry.h"
#include "tests/support/schema.h"

namespace braise::recipe {
namespace {

using nlohmann::json;

/// The schema files that a recipe is checked by.
std::vector<std::string> recipe_schema_files() {
  std::vector<std::string> files = {"recipe.schema.json", "resources.schema.json", "slurm.schema.json",
                                    "site.schema.json"};
  for (const stages::StageDescriptor* kind : stages::registry()) {
    files.push_back("stage." + std::string(kind->kind) + ".schema.json");
  }
  return files;
}

/// Calls `visit` for each schema of a property, with its dotted place.
void for_each_property(const json& schema, const std::string& place,
                       const std::function<void(const std::string&, const json&)>& visit) {
  for (const auto& [keyword, value] : schema.items()) {
    if (keyword == "properties") {
      for (const auto& [name, property] : value.items()) {
        visit(place + "." + name, property);
        for_each_property(property, place + "." + name, visit);
      }
    } else if (keyword == "anyOf" || keyword == "allOf") {
      for (const json& part : value) {
        if (!part.contains("if")) for_each_property(part, place, visit);
      }
    } else if (keyword == "items" || keyword == "additionalProperties") {
      if (value.is_object()) for_each_property(value, place + ".*", visit);
    }
  }
}

TEST_CASE("the walker knows every keyword of every schema") {
  for (const std::string& file : recipe_schema_files()) {
    INFO(file);
    CHECK_NOTHROW(compile_schema(schemas::schema(file), file));
  }
}

TEST_CASE("a schema that the walker would misread is refused") {
  const auto refused = [](const char* text) {
    INFO(text);
    CHECK_THROWS_AS(compile_schema(json::parse(text), "test.schema.json"), core::Error);
  };
  refused(R"({"type": "integer", "multipleOf": 2})");
  refused(R"({"type": "string", "maxLength": 2})");
  refused(R"({"type": "integer", "pattern": "x"})");
  refused(R"({"type": "tuple"})");
  refused(R"({"anyOf": [{"type": "string"}, {"enum": ["a"]}]})");
  refused(R"({"anyOf": [{"type": "integer"}, {"type": "number"}]})");
  refused(R"({"type": "object", "properties": {"a": {"not": {}}}})");
  refused(R"({"type": "object", "required": ["a"]})");
  refused(R"({"type": "object", "propertyNames": {"minLength": 1}})");
  refused(R"({"type": "object", "allOf": [{"if": {"required": ["a"]}, "then": {}}]})");
  refused(R"({"type": "string", "pattern": "("})");
  refused(R"({"$ref": "types.schema.json#/definitions/colour"})");
  refused(R"({"type": "string", "x-path": "output"})");
  refused(R"({"type": "integer", "oneOf": []})");
}

TEST_CASE("every key has a description, an example, and a default where it may be left out") {
  for (const std::string& file : recipe_schema_files()) {
    const json& schema = schemas::schema(file);
    std::set<std::string> required;
    for_each_property(schema, file, [&](const std::string& place, const json& property) {
      INFO(place);
      const std::string description = property.value("description", "");
      CHECK(description.size() > 5);
      CHECK((description.empty() || description.back() == '.'));
      const std::string name = place.substr(place.rfind('.') + 1);
      static const std::set<std::string> kRequired = {
          "kind",  "recipe", "name",  "stages",   "input", "path", "model",      "prompts", "data",
          "batch", "global", "micro", "sequence", "match", "site", "candidates", "name",    "checkpoint"};
      const bool is_required = kRequired.contains(name);
      CHECK((is_required || property.contains("default") || property.contains("x-default")));
      const bool object = property.value("type", "") == "object" || property.contains("allOf");
      CHECK((object || property.contains("const") || property.contains("enum") ||
             !property.value("examples", json()).empty()));
    });
  }
}

TEST_CASE("defaults and examples pass their own schema") {
  for (const std::string& file : recipe_schema_files()) {
    for_each_property(schemas::schema(file), file, [&](const std::string& place, const json& property) {
      INFO(place);
      json standalone = property;
      standalone["$id"] = file;
      const Schema& schema = compile_schema(property, file);
      if (schema.default_value) CHECK(test::schema_faults(*schema.default_value, standalone) == "");
      for (const json& example : property.value("examples", json::array())) {
        INFO(example);
        CHECK(test::schema_faults(example, standalone) == "");
      }
    });
  }
}

TEST_CASE("the schema names the kinds that the registry has") {
  const json& stage = schemas::schema("recipe.schema.json")["properties"]["stages"]["additionalProperties"];
  std::vector<std::string> kinds;
  for (const stages::StageDescriptor* kind : stages::registry()) kinds.push_back(kind->kind);
  CHECK(stage["properties"]["kind"]["enum"] == json(kinds));
  const Schema& compiled = *recipe_schema().map->find("stages")->schema->map->additional;
  for (const std::string& kind : kinds) {
    REQUIRE(compiled.map->by_kind.contains(kind));
    // What every stage has, every kind has.
    for (const char* common : {"kind", "resources", "slurm", "after", "seed"}) {
      CHECK(compiled.map->by_kind.at(kind)->map->find(common) != nullptr);
    }
  }
}

TEST_CASE("what a schema asks for can be said") {
  const auto said = [](const char* text) { return describe(compile_schema(json::parse(text), "test.schema.json")); };
  CHECK(said(R"({"type": "integer"})") == "a whole number");
  CHECK(said(R"({"type": "integer", "minimum": 1, "maximum": 8})") == "a whole number from 1 to 8");
  CHECK(said(R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})") == "a number above 0 to below 1");
  CHECK(said(R"({"enum": ["a", "b", "c"]})") == "`a`, `b` or `c`");
  CHECK(said(R"({"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "boolean"}]})") ==
        "true or false, text or a list");
  CHECK(said(R"({"type": "integer", "minimum": 4096, "x-unit": "bytes", "examples": ["1MiB"]})") ==
        "a size such as `1MiB`, from 4KiB");
  CHECK(said(R"({"const": 1})") == "1");
  CHECK(said(R"({"type": "string", "pattern": "^a$", "x-form": "an a"})") == "an a");
}

}  // namespace
}  // namespace braise::recipe
