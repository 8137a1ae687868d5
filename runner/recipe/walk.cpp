// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/walk.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace braise::recipe {
namespace {

using nlohmann::json;
using yaml::Node;
using yaml::Type;

bool is_yaml_1_1_boolean(const std::string& text) {
  static const std::vector<std::string> words = {"yes", "no", "on", "off", "y", "n"};
  std::string lower = text;
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return std::find(words.begin(), words.end(), lower) != words.end();
}

std::string join_quoted(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "`" : ", `") + word + "`";
  return text;
}

/// A folder in a path pattern stands for itself, whatever characters its name holds.
std::string escape_glob(const std::string& path) {
  std::string result;
  for (const char c : path) {
    const bool special = c == '*' || c == '?' || c == '[';
    result += special ? std::string("[") + c + "]" : std::string(1, c);
  }
  return result;
}

bool is_in_range(const NumberRule& rule, double value) {
  return (!rule.minimum || value >= *rule.minimum) && (!rule.maximum || value <= *rule.maximum) &&
         (!rule.exclusive_minimum || value > *rule.exclusive_minimum) &&
         (!rule.exclusive_maximum || value < *rule.exclusive_maximum);
}

// Doubles are whole numbers, each of its own, up to here.
constexpr double kExactWhole = 9007199254740992.0;

}  // namespace

std::string show(const Node& node) {
  switch (node.type()) {
    case Type::null:
      return "empty";
    case Type::sequence:
    case Type::map:
      return yaml::describe(node.type());
    case Type::string:
      return "\"" + stages::printable(node.text()) + "\"";
    default:
      return stages::printable(node.text());
  }
}

json Walker::walk(const Schema& schema, const Node& node, const Place& place) {
  const bool text = !plain_text && node.type() == Type::string && has_reference(node.text());
  return text ? walk_text(schema, node, place) : walk_value(schema, node, place);
}

json Walker::walk_stage(const Schema& schema, const Node& node, const StageScope& scope) {
  stage_ = &scope;
  json value = walk(schema, node, scope.place);
  stage_ = nullptr;
  return value;
}

/// Text with references or escapes.
json Walker::walk_text(const Schema& schema, const Node& written, const Place& place) {
  if (schema.is_free()) return walk_free(written, place);
  if (!schema.reference || variables_ == nullptr) {
    return fault(written, place, "is " + show(written) + "; a reference cannot stand here", "write the value itself");
  }
  const Expansion expansion = variables_->expand(written, place.dotted(), stage_ != nullptr);
  if (expansion.kind == Expansion::Kind::failed) return nullptr;
  const Node* const outer = std::exchange(referring_, &written);
  json value;
  if (expansion.kind == Expansion::Kind::kept) {
    value = accept_text(schema, expansion.node, place, true);
    if (!expansion.stage_output.empty()) stage_->reference(expansion.stage_output, written, place);
  } else if (expansion.node.type() == Type::string || (expansion.from_environment && schema.text)) {
    const Node text = Node::scalar(expansion.node.text(), true, expansion.node.mark());
    saw_literal_reference_ = saw_literal_reference_ || has_reference(text.text());
    const bool looks_kept = text.text().rfind("${run.", 0) == 0 || text.text().rfind("${stages.", 0) == 0;
    if (stage_ != nullptr && looks_kept) {
      value = fault(written, place, "is text that begins like a reference but is none", "let it begin otherwise");
    } else {
      value = walk_value(schema, text, place);
    }
  } else {
    value = walk_value(schema, expansion.node, place);
  }
  referring_ = outer;
  return value;
}

json Walker::walk_value(const Schema& schema, const Node& node, const Place& place) {
  if (schema.is_free()) return walk_free(node, place);
  switch (node.type()) {
    case Type::null:
      return fault(node, place, "is empty", "must be " + describe(schema));
    case Type::boolean:
      return accept_boolean(schema, node, place);
    case Type::integer:
    case Type::real:
      return accept_number(schema, node, place);
    case Type::string:
      return schema.text                                  ? accept_text(schema, node, place, false)
             : schema.number && schema.unit != Unit::none ? accept_quantity(schema, node, place)
                                                          : wrong_type(schema, node, place);
    case Type::sequence:
      return accept_list(schema, node, place);
    case Type::map:
      return accept_map(schema, node, place);
  }
  return nullptr;
}

json Walker::walk_free(const Node& node, const Place& place) {
  if (node.type() == Type::real) {
    const json value = node.to_json();
    if (!std::isfinite(value.get<double>())) return fault(node, place, "is " + show(node), "must be a finite number");
    return value;
  }
  if (node.is_scalar()) return node.to_json();
  if (node.is_map()) {
    json object = json::object();
    for (const Node::Entry& entry : node.entries()) {
      object[entry.key] = walk_free(entry.value, Place(place, entry.key, entry.key_mark));
    }
    return object;
  }
  json list = json::array();
  for (std::size_t i = 0; i < node.items().size(); ++i) {
    list.push_back(walk_free(node.items()[i], Place(place, i, node.items()[i].mark())));
  }
  return list;
}

json Walker::accept_boolean(const Schema& schema, const Node& node, const Place& place) {
  return schema.boolean ? node.to_json() : wrong_type(schema, node, place);
}

json Walker::accept_number(const Schema& schema, const Node& node, const Place& place) {
  if (!schema.number) return wrong_type(schema, node, place);
  const json value = node.to_json();
  if (!schema.number->whole)
    return check_range(schema, value.get<double>() + 0.0, node, place);  // + 0.0: no minus zero
  if (value.is_number_integer()) return check_range(schema, value, node, place);
  const double real = value.get<double>();
  if (real != std::floor(real) || !std::isfinite(real)) return wrong_type(schema, node, place);
  if (std::abs(real) > kExactWhole)
    return fault(node, place, "is " + show(node) + ", which is too large", "must be " + describe(schema));
  return check_range(schema, static_cast<std::int64_t>(real), node, place);
}

json Walker::accept_quantity(const Schema& schema, const Node& node, const Place& place) {
  const Quantity quantity = parse_quantity(schema.unit, node.text());
  const std::string wanted = "must be " + describe(schema);
  if (!quantity.ok) {
    const std::string shown = "is " + show(node);
    // "is \"5Gib\"" says already what "has the unit `Gib`" is about.
    const bool same = quantity.problem == shown;
    return fault(node, place, same ? shown : shown + ", which " + quantity.problem,
                 quantity.remedy.empty() ? wanted : quantity.remedy);
  }
  if (!schema.number->whole) return check_range(schema, quantity.value, node, place);
  if (quantity.value > kExactWhole) return fault(node, place, "is " + show(node) + ", which is too large", wanted);
  return check_range(schema, static_cast<std::int64_t>(quantity.value), node, place);
}

json Walker::check_range(const Schema& schema, json value, const Node& node, const Place& place) {
  const double real = value.get<double>();
  if (std::isfinite(real) && is_in_range(*schema.number, real)) return value;
  return fault(node, place, "is " + show(node), "must be " + describe(schema));
}

json Walker::accept_text(const Schema& schema, const Node& node, const Place& place, bool kept) {
  const std::string& text = node.text();
  if (kept) {
    if (schema.text && schema.text->is_free()) return text;
    return fault(node, place, "is a path", "must be " + describe(schema));
  }
  if (!schema.text) return wrong_type(schema, node, place);
  const TextRule& rule = *schema.text;
  if (text.size() < rule.min_length) return fault(node, place, "is empty text", "must not be empty");
  if (!rule.one_of.empty() && std::find(rule.one_of.begin(), rule.one_of.end(), text) == rule.one_of.end()) {
    const std::string near = stages::nearest(text, rule.one_of);
    return fault(node, place, "is " + show(node),
                 near.empty() ? "must be " + describe(schema) : "did you mean `" + near + "`?");
  }
  if (rule.pattern && !rule.pattern->matches(text)) {
    return fault(node, place, "is " + show(node), "must be " + describe(schema));
  }
  return schema.input_path && !text.empty() ? absolute(text, node.mark()) : text;
}

std::string Walker::absolute(const std::string& path, const yaml::Mark& written_at) const {
  if (path.starts_with('/')) return path;
  std::string_view relative = path;
  while (relative.substr(0, 2) == "./") relative.remove_prefix(2);
  return escape_glob(folder_of(written_at).string()) + "/" + std::string(relative);
}

json Walker::accept_list(const Schema& schema, const Node& node, const Place& place) {
  if (!schema.list) return wrong_type(schema, node, place);
  const ListRule& rule = *schema.list;
  const std::size_t count = node.items().size();
  const auto things = [](std::size_t n) { return std::to_string(n) + (n == 1 ? " item" : " items"); };
  if (rule.min_items && count < *rule.min_items) {
    return fault(node, place, "has " + things(count), "must have " + things(*rule.min_items) + " or more");
  }
  if (rule.max_items && count > *rule.max_items) {
    return fault(node, place, "has " + things(count), "must have " + things(*rule.max_items) + " or fewer");
  }
  json list = json::array();
  for (std::size_t i = 0; i < count; ++i) {
    const Node& item = node.items()[i];
    const Place here(place, i, item.mark());
    list.push_back(rule.items == nullptr ? walk_free(item, here) : walk(*rule.items, item, here));
  }
  return list;
}

json Walker::accept_map(const Schema& schema, const Node& node, const Place& place) {
  if (!schema.map) return wrong_type(schema, node, place);
  const MapRule& rule = *schema.map;
  if (node.entries().size() < rule.min_properties) {
    return fault(node, place, "has no keys", "must have at least " + std::to_string(rule.min_properties));
  }
  json object = json::object();
  std::size_t found = 0;
  std::set<std::string> meant;
  for (const Node::Entry& entry : node.entries()) {
    const Place here(place, entry.key, entry.key_mark);
    if (rule.names && !rule.names->matches(entry.key)) {
      faults_.push_back({entry.key_mark, here.dotted(), "is not a possible name", "must be " + rule.names_form});
      continue;
    }
    const Property* property = rule.find(entry.key);
    const Schema* value_schema = nullptr;
    if (property != nullptr) {
      ++found;
      value_schema = property->schema;
    } else if (!rule.open) {
      meant.insert(report_unknown_key(rule, entry.key, here));
      continue;
    } else {
      value_schema = rule.additional;
    }
    object[entry.key] = value_schema == nullptr ? walk_free(entry.value, here) : walk(*value_schema, entry.value, here);
  }
  if (found == rule.properties.size()) return object;
  const json* inherited = schema.default_path.empty() ? nullptr : resolved_at(schema.default_path);
  for (const Property& property : rule.properties) {
    if (node.find(property.name) != nullptr) continue;
    if (property.required) {
      // A key that is there but misspelt has been reported as such.
      if (!meant.contains(property.name)) report_missing_key(property, node, place);
      continue;
    }
    json value = inherited != nullptr && inherited->contains(property.name) ? (*inherited)[property.name]
                                                                            : missing_value(*property.schema);
    if (!value.is_null()) object[property.name] = std::move(value);
  }
  return object;
}

json Walker::missing_value(const Schema& schema) const {
  if (!schema.default_path.empty()) {
    const json* value = resolved_at(schema.default_path);
    return value == nullptr ? json() : *value;
  }
  return schema.default_value ? *schema.default_value : json();
}

std::string Walker::report_unknown_key(const MapRule& rule, const std::string& key, const Place& place) {
  std::vector<std::string> names;
  for (const Property& property : rule.properties) names.push_back(property.name);
  std::string meant = stages::nearest(key, names);
  for (const Property& property : rule.properties) {
    if (meant.empty() && property.schema->map && property.schema->map->find(key) != nullptr)
      meant = property.name + "." + key;
  }
  const yaml::Mark& at = *place.mark;
  faults_.push_back({at, place.dotted(), "unknown key",
                     meant.empty() ? "the keys here are " + join_quoted(names) : "did you mean `" + meant + "`?"});
  return meant;
}

void Walker::report_missing_key(const Property& property, const Node& map, const Place& place) {
  const yaml::Mark& at = place.mark != nullptr ? *place.mark : map.mark();
  const Place missing(place, property.name, at);
  faults_.push_back({at, missing.dotted(), "is missing", "must be " + describe(*property.schema)});
}

json Walker::fault(const Node& node, const Place& place, std::string problem, std::string remedy) {
  // What a reference has brought is wrong for the place it was brought to, so that place is named.
  const yaml::Mark& at = referring_ != nullptr ? referring_->mark() : node.mark();
  if (referring_ != nullptr && referring_ != &node)
    problem = "`" + stages::printable(referring_->text()) + "` " + problem;
  faults_.push_back({at, place.dotted(), std::move(problem), std::move(remedy)});
  return nullptr;
}

json Walker::wrong_type(const Schema& schema, const Node& node, const Place& place) {
  std::string remedy = "must be " + describe(schema);
  if (node.type() == Type::string) {
    const std::string& text = node.text();
    const Type plain = Node::scalar(text, false, {}).type();
    const bool number_in_quotes = schema.number && (plain == Type::integer || plain == Type::real);
    const bool boolean_in_quotes = schema.boolean && plain == Type::boolean;
    const bool has_unit = schema.number && schema.unit == Unit::none &&
                          (parse_quantity(Unit::bytes, text).ok || parse_quantity(Unit::seconds, text).ok);
    if (schema.boolean && is_yaml_1_1_boolean(text)) remedy = "YAML 1.2 wants true or false";
    if (number_in_quotes || boolean_in_quotes) remedy += ", without quotes";
    if (has_unit) remedy += ", without a unit";
  } else if (schema.text && node.is_scalar() && schema.text->one_of.empty() &&
             (!schema.text->pattern || schema.text->pattern->matches(node.text()))) {
    remedy += "; put it in quotes";
  }
  return fault(node, place, "is " + show(node), remedy);
}

}  // namespace braise::recipe
