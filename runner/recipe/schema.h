// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runner/recipe/pattern.h"
#include "runner/recipe/units.h"

namespace braise::recipe {

struct Schema;

struct NumberRule {
  bool whole = false;
  std::optional<double> minimum, maximum, exclusive_minimum, exclusive_maximum;
};

struct TextRule {
  std::vector<std::string> one_of;  ///< empty: any text
  std::size_t min_length = 0;       ///< in bytes: only ever 1 in our schemas
  std::optional<Pattern> pattern;
  std::string form;  ///< the pattern in words

  bool is_free() const { return one_of.empty() && !pattern; }
};

struct ListRule {
  const Schema* items = nullptr;  ///< nullptr: anything
  std::optional<std::size_t> min_items, max_items;
};

struct Property {
  std::string name;
  const Schema* schema = nullptr;
  bool required = false;
};

struct MapRule {
  std::vector<Property> properties;
  std::vector<std::pair<Pattern, const Schema*>> patterns;  ///< `patternProperties`
  std::optional<Pattern> names;                             ///< `propertyNames`
  std::string names_form;                                   ///< and in words
  bool open = true;                                         ///< whether other keys are allowed
  const Schema* additional = nullptr;                       ///< what those hold; nullptr: anything
  std::size_t min_properties = 0;
  std::map<std::string, const Schema*> by_kind;  ///< the schema of the whole map goes by the value of its key `kind`

  const Property* find(const std::string& name) const;
};

/// A JSON Schema of our subset of draft 7, made ready for walking YAML: of the alternatives of an `anyOf` there is at
/// most one for each type of YAML value, so that the value itself tells which is meant. A schema without any rule
/// allows everything.
struct Schema {
  bool boolean = false;
  std::optional<NumberRule> number;
  std::optional<TextRule> text;
  std::optional<ListRule> list;
  std::optional<MapRule> map;
  bool reference = false;   ///< whether "${...}" may stand here
  Unit unit = Unit::none;   ///< `x-unit`: text with that unit may stand for the number
  bool input_path = false;  ///< `x-path`: "input"
  std::string description;
  std::string example;                          ///< the first example, where it is text
  std::optional<nlohmann::json> default_value;  ///< whole: the defaults of an object's own keys are filled in
  std::string default_path;                     ///< `x-default`; else empty

  bool is_free() const { return !boolean && !number && !text && !list && !map; }
};

/// The schema of a recipe, compiled once. Errors: core::Error where a schema uses what the walker does not know, which
/// every start and the tests would show.
const Schema& recipe_schema();

/// Compiles an embedded schema file. What it gives lives as long as the program.
const Schema& compile_schema(const nlohmann::json& schema, const std::string& file);

/// "a whole number from 1 to 1024", "`a`, `b` or `c`", "text or a list": what a schema asks for.
std::string describe(const Schema& schema);

/// A default or other JSON value as the walker would give it: numbers that need not be whole are doubles.
nlohmann::json complete_default(const Schema& schema, const nlohmann::json& value);

}  // namespace braise::recipe
