// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/yaml/node.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

namespace braise::yaml {
namespace {

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view skip_digits(std::string_view text) {
  while (!text.empty() && is_digit(text.front())) text.remove_prefix(1);
  return text;
}

std::string_view skip_sign(std::string_view text) {
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) text.remove_prefix(1);
  return text;
}

bool is_infinity(std::string_view text) {
  return is_one_of(skip_sign(text), {".inf", ".Inf", ".INF"});
}
bool is_not_a_number(std::string_view text) {
  return is_one_of(text, {".nan", ".NaN", ".NAN"});
}

/// Whether the text has the form of a number of the core schema in base 10, and which.
Type decimal_type(std::string_view text) {
  std::string_view rest = skip_sign(text);
  const std::string_view fraction = skip_digits(rest);
  const bool whole_digits = fraction.size() < rest.size();
  if (whole_digits && fraction.empty()) return Type::integer;
  rest = fraction;
  bool digits = whole_digits;
  if (!rest.empty() && rest.front() == '.') {
    const std::string_view after = skip_digits(rest.substr(1));
    digits = digits || after.size() < rest.size() - 1;
    rest = after;
  }
  if (!digits) return Type::string;
  if (rest.empty()) return Type::real;
  if (rest.front() != 'e' && rest.front() != 'E') return Type::string;
  const std::string_view exponent = skip_sign(rest.substr(1));
  return !exponent.empty() && skip_digits(exponent).empty() ? Type::real : Type::string;
}

bool has_base(std::string_view text, std::string_view prefix, int base) {
  if (text.substr(0, prefix.size()) != prefix || text.size() == prefix.size()) return false;
  return std::all_of(text.begin() + static_cast<std::ptrdiff_t>(prefix.size()), text.end(), [base](char c) {
    if (is_digit(c)) return c - '0' < base;
    return base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'));
  });
}

/// The whole number a text of integer form stands for; false where it does not fit.
bool parse_integer(std::string_view text, std::int64_t& value) {
  int base = 10;
  if (has_base(text, "0x", 16)) base = 16;
  if (has_base(text, "0o", 8)) base = 8;
  if (base != 10) text.remove_prefix(2);
  if (text.front() == '+') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

double parse_real(std::string_view text) {
  const bool negative = !text.empty() && text.front() == '-';
  if (is_infinity(text)) {
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  }
  if (is_not_a_number(text)) return std::numeric_limits<double>::quiet_NaN();
  // strtod rather than from_chars: it also tells overflow (infinity) from underflow (0).
  return std::strtod(std::string(text).c_str(), nullptr);
}

Type scalar_type(const std::string& text, bool quoted) {
  if (quoted) return Type::string;
  if (text.empty() || is_one_of(text, {"~", "null", "Null", "NULL"})) return Type::null;
  const char first = text.front();
  if (first == 't' || first == 'T' || first == 'f' || first == 'F') {
    const bool boolean = is_one_of(text, {"true", "True", "TRUE", "false", "False", "FALSE"});
    return boolean ? Type::boolean : Type::string;
  }
  if (!is_digit(first) && first != '-' && first != '+' && first != '.') return Type::string;
  if (is_infinity(text) || is_not_a_number(text)) return Type::real;
  const bool based = has_base(text, "0x", 16) || has_base(text, "0o", 8);
  const Type type = based ? Type::integer : decimal_type(text);
  std::int64_t value = 0;
  // A whole number that does not fit 64 bits is still a number; whoever wants a whole one refuses it.
  if (type == Type::integer && !parse_integer(text, value)) return based ? Type::string : Type::real;
  return type;
}

const std::string kNoText;
const std::vector<Node> kNoItems;
const std::vector<Node::Entry> kNoEntries;

}  // namespace

const char* describe(Type type) {
  switch (type) {
    case Type::null:
      return "empty";
    case Type::boolean:
      return "true or false";
    case Type::integer:
      return "a whole number";
    case Type::real:
      return "a number";
    case Type::string:
      return "text";
    case Type::sequence:
      return "a list";
    case Type::map:
      return "a map";
  }
  return "";
}

struct Node::Content {
  Type type = Type::null;
  Mark mark;
  bool quoted = false;
  std::string text;
  std::vector<Node> items;
  std::vector<Entry> entries;
};

Node::Node() {
  static const std::shared_ptr<const Content> null = std::make_shared<Content>();
  content_ = null;
}

Node Node::scalar(std::string text, bool quoted, Mark mark) {
  auto content = std::make_shared<Content>();
  content->type = scalar_type(text, quoted);
  content->mark = std::move(mark);
  content->quoted = quoted;
  content->text = std::move(text);
  return Node(std::move(content));
}

Node Node::sequence(std::vector<Node> items, Mark mark) {
  auto content = std::make_shared<Content>();
  content->type = Type::sequence;
  content->mark = std::move(mark);
  content->items = std::move(items);
  return Node(std::move(content));
}

Node Node::map(std::vector<Entry> entries, Mark mark) {
  auto content = std::make_shared<Content>();
  content->type = Type::map;
  content->mark = std::move(mark);
  content->entries = std::move(entries);
  return Node(std::move(content));
}

Type Node::type() const {
  return content_->type;
}
const Mark& Node::mark() const {
  return content_->mark;
}
const std::string& Node::text() const {
  return is_scalar() ? content_->text : kNoText;
}
bool Node::quoted() const {
  return content_->quoted;
}
const std::vector<Node>& Node::items() const {
  return is_sequence() ? content_->items : kNoItems;
}
const std::vector<Node::Entry>& Node::entries() const {
  return is_map() ? content_->entries : kNoEntries;
}

const Node* Node::find(std::string_view key) const {
  for (const Entry& entry : entries()) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

Node Node::with(const std::string& key, const Mark& key_mark, Node value) const {
  std::vector<Entry> changed = entries();
  const auto found = std::find_if(changed.begin(), changed.end(), [&](const Entry& entry) { return entry.key == key; });
  if (found != changed.end()) {
    found->value = std::move(value);
  } else {
    changed.push_back({key, key_mark, std::move(value)});
  }
  return map(std::move(changed), mark());
}

Node Node::without(std::string_view key) const {
  std::vector<Entry> changed = entries();
  std::erase_if(changed, [&](const Entry& entry) { return entry.key == key; });
  return map(std::move(changed), mark());
}

nlohmann::json Node::to_json() const {
  switch (type()) {
    case Type::null:
      return nullptr;
    case Type::boolean:
      return text().front() == 't' || text().front() == 'T';
    case Type::integer: {
      std::int64_t value = 0;
      parse_integer(text(), value);
      return value;
    }
    case Type::real:
      return parse_real(text());
    case Type::string:
      return text();
    case Type::sequence: {
      nlohmann::json list = nlohmann::json::array();
      for (const Node& item : items()) list.push_back(item.to_json());
      return list;
    }
    case Type::map: {
      nlohmann::json object = nlohmann::json::object();
      for (const Entry& entry : entries()) object[entry.key] = entry.value.to_json();
      return object;
    }
  }
  return nullptr;
}

}  // namespace braise::yaml
