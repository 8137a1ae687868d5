// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/event.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "schemas/schemas.h"
#include "stages/api/fault.h"
#include "stages/shared/io/clock.h"

namespace braise::journal {
namespace {

using nlohmann::json;

/// A JSON schema made ready for checking many values. It knows the words that event.schema.json uses and no others: a
/// general validator would take longer for a journal of 10,000 events than reading it.
struct Rule {
  std::uint32_t types = 0;    ///< a bit for each nlohmann type; 0: any
  std::string type_name;      ///< the first, for messages
  std::vector<json> allowed;  ///< empty: any
  std::optional<std::int64_t> minimum;
  std::size_t min_length = 0;
  std::size_t hex_digits = 0;  ///< 0: any text
  bool time = false;
  std::vector<std::string> required;
  std::map<std::string, Rule, std::less<>> properties;
  bool closed = false;               ///< no other properties
  std::shared_ptr<Rule> additional;  ///< of every other property
  std::shared_ptr<Rule> items;
};

std::uint32_t bit(json::value_t type) {
  return 1u << static_cast<unsigned>(type);
}

std::uint32_t type_bits(const std::string& type) {
  if (type == "object") return bit(json::value_t::object);
  if (type == "array") return bit(json::value_t::array);
  if (type == "string") return bit(json::value_t::string);
  if (type == "integer") return bit(json::value_t::number_integer) | bit(json::value_t::number_unsigned);
  assert(type == "null");
  return bit(json::value_t::null);
}

Rule compile(const json& schema, const json& root) {
  Rule rule;
  for (const auto& [word, value] : schema.items()) {
    if (word == "$ref") {
      const auto pointer = value.get<std::string>().substr(1);
      return compile(root.at(json::json_pointer(pointer)), root);
    } else if (word == "type") {
      for (const json& type : value.is_array() ? value : json::array({value})) {
        if (rule.types == 0) rule.type_name = type;
        rule.types |= type_bits(type.get_ref<const std::string&>());
      }
    } else if (word == "const") {
      rule.allowed = {value};
    } else if (word == "enum") {
      rule.allowed = value.get<std::vector<json>>();
    } else if (word == "minimum") {
      rule.minimum = value.get<std::int64_t>();
    } else if (word == "minLength") {
      rule.min_length = value.get<std::size_t>();
    } else if (word == "pattern") {
      constexpr std::string_view kHex = "^[0-9a-f]{";
      const auto pattern = value.get<std::string>();
      assert(pattern.starts_with(kHex) && pattern.ends_with("}$") && "a pattern that this check does not know");
      std::from_chars(pattern.data() + kHex.size(), pattern.data() + pattern.size(), rule.hex_digits);
    } else if (word == "format") {
      assert(value == "date-time");
      rule.time = true;
    } else if (word == "required") {
      rule.required = value.get<std::vector<std::string>>();
    } else if (word == "properties") {
      for (const auto& [name, property] : value.items()) rule.properties.emplace(name, compile(property, root));
    } else if (word == "additionalProperties") {
      if (value.is_boolean()) {
        rule.closed = !value.get<bool>();
      } else {
        rule.additional = std::make_shared<Rule>(compile(value, root));
      }
    } else if (word == "items") {
      rule.items = std::make_shared<Rule>(compile(value, root));
    } else {
      assert(word == "description" && "a schema word that this check does not know");
    }
  }
  return rule;
}

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// The form of io::format_utc; parsing each time would take longer than all the rest of the check.
bool is_time(std::string_view text) {
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:dd.ddddddZ";
  return std::equal(text.begin(), text.end(), kForm.begin(), kForm.end(),
                    [](char c, char form) { return form == 'd' ? c >= '0' && c <= '9' : c == form; });
}

/// Looks for the first fault; `path` names the value and is as before on return where there is none.
std::string fault(const Rule& rule, const json& value, std::string& path) {
  const auto report = [&path](const std::string& problem) {
    return (path.empty() ? "" : "'" + path.substr(1) + "' ") + problem;
  };
  if (rule.types != 0 && (rule.types & bit(value.type())) == 0) return report("is not of type " + rule.type_name);
  if (!rule.allowed.empty() && std::find(rule.allowed.begin(), rule.allowed.end(), value) == rule.allowed.end()) {
    return report("is none of the allowed values");
  }
  if (rule.minimum && value.is_number_integer() && value.get<std::int64_t>() < *rule.minimum) {
    return report("is less than " + std::to_string(*rule.minimum));
  }
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    if (text.size() < rule.min_length) return report("is empty");
    if (rule.hex_digits > 0 && !is_hex(text, rule.hex_digits)) {
      return report("is not " + std::to_string(rule.hex_digits) + " hexadecimal digits");
    }
    if (rule.time && !is_time(text)) return report("is not a time");
  } else if (value.is_object()) {
    for (const std::string& name : rule.required) {
      if (!value.contains(name)) return report("lacks '" + name + "'");
    }
    for (auto property = value.begin(); property != value.end(); ++property) {
      const auto known = rule.properties.find(property.key());
      const Rule* inner = known != rule.properties.end() ? &known->second : rule.additional.get();
      if (inner == nullptr) {
        if (rule.closed) return report("has the unknown key '" + stages::printable(property.key()) + "'");
        continue;
      }
      const std::size_t length = path.size();
      path += "." + property.key();
      if (std::string problem = fault(*inner, *property, path); !problem.empty()) return problem;
      path.resize(length);
    }
  } else if (value.is_array() && rule.items) {
    for (const json& item : value) {
      if (std::string problem = fault(*rule.items, item, path); !problem.empty()) return problem;
    }
  }
  return "";
}

/// The rule of each event, by its name.
const std::map<std::string, Rule, std::less<>>& rules() {
  static const std::map<std::string, Rule, std::less<>> compiled = [] {
    const json& schema = schemas::schema("event.schema.json");
    std::map<std::string, Rule, std::less<>> result;
    for (const json& choice : schema.at("oneOf")) {
      const auto reference = choice.at("$ref").get<std::string>();
      result.emplace(reference.substr(reference.rfind('/') + 1), compile(choice, schema));
    }
    return result;
  }();
  return compiled;
}

}  // namespace

std::string event_fault(const json& event) {
  const auto name = event.is_object() ? event.find("event") : event.end();
  if (name == event.end() || !name->is_string()) return "not an event";
  const auto rule = rules().find(name->get_ref<const std::string&>());
  if (rule == rules().end()) return "unknown event '" + stages::printable(name->get<std::string>()) + "'";
  std::string path;
  const std::string problem = fault(rule->second, event, path);
  return problem.empty() ? "" : "event '" + rule->first + "': " + problem;
}

Writer::Writer(const std::filesystem::path& journal_dir, std::string name)
    : name_(std::move(name)), lines_(journal_dir / (name_ + ".jsonl")) {}

void Writer::append(json event) {
  event["time"] = io::format_utc(io::utc_us());
  event["writer"] = name_;
  event["seq"] = next_seq_++;
  assert(event_fault(event).empty());
  lines_.append(event, true);
}

}  // namespace braise::journal
