// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/units.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "stages/api/fault.h"

namespace braise::recipe {
namespace {

struct Suffix {
  const char* name;
  double factor;
};

const std::vector<Suffix>& suffixes(Unit unit) {
  static const std::vector<Suffix> bytes = {{"B", 1},         {"kB", 1e3},         {"MB", 1e6},
                                            {"GB", 1e9},      {"TB", 1e12},        {"KiB", 1024.0},
                                            {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776}};
  static const std::vector<Suffix> seconds = {{"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}};
  static const std::vector<Suffix> count = {{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}};
  static const std::vector<Suffix> none;
  switch (unit) {
    case Unit::bytes:
      return bytes;
    case Unit::seconds:
      return seconds;
    case Unit::count:
      return count;
    case Unit::none:
      break;
  }
  return none;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_small_letter(char c) {
  return c >= 'a' && c <= 'z';
}

/// Takes "12.5" off the front, with an exponent ("1e6") where allowed; false where there is no number.
bool take_number(std::string_view& text, bool exponent, double& value) {
  std::size_t i = 0;
  const auto digits = [&] {
    const std::size_t start = i;
    while (i < text.size() && is_digit(text[i])) ++i;
    return i > start;
  };
  if (!digits()) return false;
  std::size_t end = i;
  if (i < text.size() && text[i] == '.') {
    ++i;
    if (!digits()) return false;
    end = i;
  }
  if (exponent && i < text.size() && text[i] == 'e') {
    ++i;
    if (digits()) end = i;
  }
  value = std::strtod(std::string(text.substr(0, end)).c_str(), nullptr);
  text.remove_prefix(end);
  return true;
}

void take_space(std::string_view& text) {
  if (!text.empty() && text.front() == ' ') text.remove_prefix(1);
}

/// Takes letters off the front.
std::string take_word(std::string_view& text) {
  std::size_t i = 0;
  while (i < text.size() && !is_digit(text[i]) && text[i] != ' ') ++i;
  const std::string word(text.substr(0, i));
  text.remove_prefix(i);
  return word;
}

const Suffix* find_suffix(Unit unit, const std::string& name) {
  for (const Suffix& suffix : suffixes(unit)) {
    if (name == suffix.name) return &suffix;
  }
  return nullptr;
}

Quantity good(double value) {
  Quantity quantity;
  quantity.ok = true;
  quantity.value = value;
  return quantity;
}

Quantity bad(std::string problem, std::string remedy = {}) {
  return {false, 0, std::move(problem), std::move(remedy)};
}

Quantity not_a_quantity(const std::string& text) {
  return bad("is " + nlohmann::json(stages::printable(text)).dump());
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

Quantity bad_suffix(Unit unit, const std::string& name) {
  if (name.empty()) return bad("has no unit and is in quotes", "add a unit or remove the quotes");
  const std::string problem = "has the unit `" + stages::printable(name, 20) + "`";
  for (const Unit other : {Unit::bytes, Unit::seconds}) {
    const auto& others = suffixes(other);
    const bool is_other =
        std::any_of(others.begin(), others.end(), [&](const Suffix& s) { return lower(s.name) == lower(name); });
    if (other != unit && is_other && find_suffix(unit, name) == nullptr) {
      return bad(other == Unit::bytes ? "is a size" : "is a time");
    }
  }
  std::vector<std::string> names;
  std::string list;
  for (const Suffix& suffix : suffixes(unit)) {
    if (lower(suffix.name) == lower(name)) return bad(problem, "did you mean `" + std::string(suffix.name) + "`?");
    list += (list.empty() ? "" : ", ") + std::string(suffix.name);
  }
  return bad(problem, "the units are " + list);
}

Quantity parse_clock(const std::string& text) {
  const std::size_t first = text.find(':');
  const std::string hours = text.substr(0, first);
  const auto two_digits = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '5' && is_digit(text[at + 1]); };
  const bool whole = !hours.empty() && hours.size() <= 9 && hours.find_first_not_of("0123456789") == std::string::npos;
  if (!whole || text.size() != first + 6 || text[first + 3] != ':' || !two_digits(first + 1) ||
      !two_digits(first + 4)) {
    return not_a_quantity(text);
  }
  return good(std::stod(hours) * 3600 + std::stod(text.substr(first + 1, 2)) * 60 +
              std::stod(text.substr(first + 4, 2)));
}

Quantity parse_seconds(const std::string& text) {
  if (text.find(':') != std::string::npos) return parse_clock(text);
  std::string_view rest = text;
  double total = 0;
  do {
    double number = 0;
    if (!take_number(rest, false, number)) return not_a_quantity(text);
    take_space(rest);
    const std::string name = take_word(rest);
    const Suffix* suffix = find_suffix(Unit::seconds, name);
    if (suffix == nullptr) return bad_suffix(Unit::seconds, name);
    total += number * suffix->factor;
    if (!rest.empty()) take_space(rest);
  } while (!rest.empty());
  return text.back() == ' ' ? not_a_quantity(text) : good(total);
}

Quantity parse_bytes(const std::string& text) {
  std::string_view rest = text;
  double number = 0;
  if (!take_number(rest, false, number)) return not_a_quantity(text);
  take_space(rest);
  const std::string name = take_word(rest);
  if (!rest.empty()) return not_a_quantity(text);
  const Suffix* suffix = find_suffix(Unit::bytes, name);
  if (suffix == nullptr) return bad_suffix(Unit::bytes, name);
  return good(std::floor(number * suffix->factor));
}

Quantity parse_count(const std::string& text) {
  std::string_view rest = text;
  double number = 0;
  if (!take_number(rest, true, number)) return not_a_quantity(text);
  std::string_view after_space = rest;
  take_space(after_space);
  std::string name;
  if (!after_space.empty() && find_suffix(Unit::count, std::string(after_space.substr(0, 1))) != nullptr &&
      (after_space.size() == 1 || after_space[1] == ' ')) {
    name = after_space.substr(0, 1);
    rest = after_space.substr(1);
  }
  if (!rest.empty()) {  // what is counted: " tokens"
    const bool word = rest.front() == ' ' && rest.size() > 1;
    for (std::size_t i = 1; word && i < rest.size(); ++i) {
      if (!is_small_letter(rest[i])) return bad_suffix(Unit::count, std::string(rest.substr(1)));
    }
    if (!word) return bad_suffix(Unit::count, std::string(rest));
  }
  const Suffix* suffix = find_suffix(Unit::count, name);
  const double value = suffix == nullptr ? number : number * suffix->factor;
  // 1.1k is 1100.0000000000002 in binary: as near to a whole number as its rounding error.
  const double whole = std::round(value);
  if (std::abs(value - whole) > 1e-9 * std::max(1.0, whole)) return bad("is no whole number of things");
  return good(whole);
}

}  // namespace

Quantity parse_quantity(Unit unit, const std::string& text) {
  if (unit == Unit::bytes) return parse_bytes(text);
  if (unit == Unit::seconds) return parse_seconds(text);
  return parse_count(text);
}

std::string describe(Unit unit, const std::string& example) {
  const auto such_as = [&](const char* usual) {
    return " such as `" + (example.empty() ? std::string(usual) : example) + "`";
  };
  if (unit == Unit::bytes) return "a size" + such_as("64MiB");
  if (unit == Unit::seconds) return "a time" + such_as("90s");
  return "a count" + such_as("10k");
}

std::string format_quantity(Unit unit, double value) {
  const auto plain = [](double number) {
    const bool whole = std::abs(number) < 9e15 && number == std::floor(number);
    return whole ? std::to_string(static_cast<std::int64_t>(number)) : nlohmann::json(number).dump();
  };
  if (unit == Unit::bytes) {
    for (const char* name : {"TiB", "GiB", "MiB", "KiB"}) {
      const double factor = find_suffix(Unit::bytes, name)->factor;
      if (value >= factor && std::fmod(value, factor) == 0) return plain(value / factor) + name;
    }
    return plain(value) + " bytes";
  }
  if (unit == Unit::seconds) return plain(value) + "s";
  return plain(value);
}

}  // namespace braise::recipe
