// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/schema.h"

#include <algorithm>
#include <deque>
#include <set>

#include "kernels/core/error.h"
#include "schemas/schemas.h"

namespace braise::recipe {
namespace {

using nlohmann::json;

constexpr const char* kTypesFile = "types.schema.json";

/// Schemas are compiled once and never freed, so that pointers between them stay good.
Schema& new_schema() {
  static std::deque<Schema> all;
  return all.emplace_back();
}

class Compiler {
 public:
  explicit Compiler(std::string file) : file_(std::move(file)), root_(&schemas::schema(file_)) {}
  Compiler(std::string file, const json& root) : file_(std::move(file)), root_(&root) {}

  const json& root() const { return *root_; }

  const Schema& compile(const json& source) const {
    Schema& schema = new_schema();
    add(schema, source);
    if (source.contains("default")) schema.default_value = complete_default(schema, source["default"]);
    return schema;
  }

  /// Adds what `source` says to `schema`.
  void add(Schema& schema, const json& source) const {
    if (!source.is_object()) fail(source, "is not an object");
    add_type(schema, source);
    for (const auto& [keyword, value] : source.items()) add_keyword(schema, source, keyword, value);
  }

 private:
  [[noreturn]] void fail(const json& where, const std::string& what) const {
    throw core::Error("schemas/" + file_ + ": " + what + " in " + where.dump().substr(0, 200));
  }

  void add_type(Schema& schema, const json& source) const {
    const std::string type = source.value("type", source.contains("enum") ? "string" : "");
    const bool is_new = (type == "boolean" && !schema.boolean) || (type == "string" && !schema.text) ||
                        ((type == "integer" || type == "number") && !schema.number) ||
                        (type == "array" && !schema.list) || (type == "object" && !schema.map);
    if (!type.empty() && !is_new) fail(source, "type `" + type + "` is unknown or has two alternatives");
    if (type == "boolean") schema.boolean = true;
    if (type == "string") schema.text.emplace();
    if (type == "integer" || type == "number") schema.number.emplace().whole = type == "integer";
    if (type == "array") schema.list.emplace();
    if (type == "object") schema.map.emplace();
  }

  template <typename Rule>
  Rule& rule(std::optional<Rule>& rule, const json& source, const std::string& keyword) const {
    if (!rule) fail(source, "`" + keyword + "` does not go with the type");
    return *rule;
  }

  void add_keyword(Schema& schema, const json& source, const std::string& keyword, const json& value) const {
    const auto number = [&]() -> NumberRule& { return rule(schema.number, source, keyword); };
    const auto text = [&]() -> TextRule& { return rule(schema.text, source, keyword); };
    const auto list = [&]() -> ListRule& { return rule(schema.list, source, keyword); };
    const auto map = [&]() -> MapRule& { return rule(schema.map, source, keyword); };
    static const std::set<std::string> elsewhere = {"$schema", "$id", "title", "definitions", "type", "default"};
    if (elsewhere.contains(keyword)) return;
    if (keyword == "description") {
      schema.description = value;
    } else if (keyword == "examples") {
      if (!value.empty() && value.front().is_string()) schema.example = value.front();
    } else if (keyword == "minimum") {
      number().minimum = value;
    } else if (keyword == "maximum") {
      number().maximum = value;
    } else if (keyword == "exclusiveMinimum") {
      number().exclusive_minimum = value;
    } else if (keyword == "exclusiveMaximum") {
      number().exclusive_maximum = value;
    } else if (keyword == "minLength") {
      text().min_length = value;
    } else if (keyword == "pattern") {
      text().pattern.emplace(value.get<std::string>());
    } else if (keyword == "x-form") {
      text().form = value;
    } else if (keyword == "enum") {
      text().one_of = value.get<std::vector<std::string>>();
    } else if (keyword == "const") {
      add_const(schema, source, value);
    } else if (keyword == "items") {
      list().items = &compile(value);
    } else if (keyword == "minItems") {
      list().min_items = value;
    } else if (keyword == "maxItems") {
      list().max_items = value;
    } else if (keyword == "properties") {
      for (const auto& [name, property] : value.items()) add_property(map(), source, name, property);
    } else if (keyword == "required") {
      check_required(map(), source, value);
    } else if (keyword == "additionalProperties") {
      map().open = value != false;
      if (value.is_object()) map().additional = &compile(value);
    } else if (keyword == "patternProperties") {
      for (const auto& [pattern, property] : value.items())
        map().patterns.emplace_back(Pattern(pattern), &compile(property));
    } else if (keyword == "propertyNames") {
      for (const auto& [name, ignored] : value.items()) {
        if (name != "pattern" && name != "x-form") fail(source, "`propertyNames` with `" + name + "`");
      }
      map().names.emplace(value.at("pattern").get<std::string>());
      map().names_form = value.at("x-form");
    } else if (keyword == "minProperties") {
      map().min_properties = value;
    } else if (keyword == "anyOf") {
      for (const json& alternative : value) add(schema, alternative);
    } else if (keyword == "allOf") {
      for (const json& part : value) part.contains("if") ? add_condition(map(), part) : add(schema, part);
    } else if (keyword == "$ref") {
      add_referred(schema, value);
    } else if (keyword == "x-unit") {
      static const std::map<std::string, Unit> units = {
          {"bytes", Unit::bytes}, {"seconds", Unit::seconds}, {"count", Unit::count}};
      schema.unit = units.at(value.get<std::string>());
    } else if (keyword == "x-default") {
      schema.default_path = value;
    } else if (keyword == "x-path") {
      if (value != "input") fail(source, "`x-path` is not \"input\"");
      schema.input_path = true;
    } else {
      fail(source, "unknown keyword `" + keyword + "`");
    }
  }

  void add_const(Schema& schema, const json& source, const json& value) const {
    if (value.is_string()) {
      schema.text.emplace().one_of = {value.get<std::string>()};
    } else if (value.is_number_integer()) {
      NumberRule& only = schema.number.emplace();
      only.whole = true;
      only.minimum = only.maximum = value.get<double>();
    } else {
      fail(source, "`const` of this type");
    }
  }

  void add_property(MapRule& map, const json& source, const std::string& name, const json& property) const {
    const json required = source.value("required", json::array());
    const bool is_required = std::find(required.begin(), required.end(), name) != required.end();
    map.properties.push_back({name, &compile(property), is_required});
  }

  void check_required(const MapRule&, const json& source, const json& names) const {
    for (const json& name : names) {
      const bool known = source.contains("properties") && source["properties"].contains(name.get<std::string>());
      if (!known) fail(source, "`required` names a key without a schema");
    }
  }

  void add_condition(MapRule& map, const json& part) const {
    static const std::set<std::string> known = {"if", "then"};
    for (const auto& [keyword, ignored] : part.items()) {
      if (!known.contains(keyword)) fail(part, "`if` with `" + keyword + "`");
    }
    const json& condition = part.at("if");
    const bool by_kind = condition.size() == 1 && condition.contains("properties") &&
                         condition["properties"].size() == 1 && condition["properties"].contains("kind") &&
                         condition["properties"]["kind"].size() == 1;
    if (!by_kind) fail(part, "`if` on something else than `kind`");
    map.by_kind[condition["properties"]["kind"].at("const")] = &compile(part.at("then"));
  }

  void add_referred(Schema& schema, const std::string& reference) const {
    const std::size_t hash = std::min(reference.find('#'), reference.size());
    const std::string file = hash == 0 ? file_ : reference.substr(0, hash);
    const std::string pointer = hash < reference.size() ? reference.substr(hash + 1) : "";
    if (file == kTypesFile) {  // forms that the walker has code for
      const std::string form = pointer.substr(pointer.rfind('/') + 1);
      if (form == "reference") schema.reference = true;
      static const std::set<std::string> forms = {"reference", "bytes", "seconds", "count"};
      if (!forms.contains(form)) fail(reference, "unknown form");
      return;
    }
    const Compiler other(file);
    other.add(schema, other.root().at(json::json_pointer(pointer)));
  }

  std::string file_;
  const json* root_;
};

std::string join_alternatives(const std::vector<std::string>& parts) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += i + 1 == parts.size() ? " or " : ", ";
    text += parts[i];
  }
  return text;
}

std::string describe_number(const Schema& schema) {
  const NumberRule& rule = *schema.number;
  // Bounds this far out are those of the type.
  constexpr double kUnbounded = 9e18;
  const auto format = [&](double value) { return format_quantity(schema.unit, value); };
  if (rule.minimum && rule.minimum == rule.maximum) return format(*rule.minimum);
  std::string text = schema.unit != Unit::none ? describe(schema.unit, schema.example)
                     : rule.whole              ? "a whole number"
                                               : "a number";
  const bool bounded = schema.unit != Unit::none && (rule.minimum || rule.exclusive_minimum);
  if (bounded) text += ",";
  if (rule.minimum) text += " from " + format(*rule.minimum);
  if (rule.exclusive_minimum) text += " above " + format(*rule.exclusive_minimum);
  if (rule.maximum && *rule.maximum < kUnbounded) text += " to " + format(*rule.maximum);
  if (rule.exclusive_maximum) text += " to below " + format(*rule.exclusive_maximum);
  return text;
}

}  // namespace

const Property* MapRule::find(const std::string& name) const {
  for (const Property& property : properties) {
    if (property.name == name) return &property;
  }
  return nullptr;
}

const Schema& compile_schema(const json& schema, const std::string& file) {
  return Compiler(file, schema).compile(schema);
}

const Schema& recipe_schema() {
  static const Schema& schema = compile_schema(schemas::schema("recipe.schema.json"), "recipe.schema.json");
  return schema;
}

std::string describe(const Schema& schema) {
  std::vector<std::string> parts;
  if (schema.boolean) parts.emplace_back("true or false");
  if (schema.number) parts.push_back(describe_number(schema));
  if (schema.text && !schema.text->one_of.empty()) {
    for (const std::string& value : schema.text->one_of) parts.push_back("`" + value + "`");
  } else if (schema.text) {
    parts.push_back(schema.text->form.empty() ? "text" : schema.text->form);
  }
  if (schema.list) parts.emplace_back("a list");
  if (schema.map) parts.emplace_back("a map");
  return join_alternatives(parts);
}

json complete_default(const Schema& schema, const json& value) {
  if (value.is_number() && schema.number && !schema.number->whole) return value.get<double>();
  if (!value.is_object() || !schema.map) return value;
  json object = value;
  for (const Property& property : schema.map->properties) {
    if (object.contains(property.name)) {
      object[property.name] = complete_default(*property.schema, object[property.name]);
    } else if (property.schema->default_value) {
      object[property.name] = *property.schema->default_value;
    }
  }
  return object;
}

}  // namespace braise::recipe
