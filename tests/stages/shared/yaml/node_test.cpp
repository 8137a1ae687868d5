// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/yaml/node.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "stages/shared/yaml/parse.h"

namespace braise::yaml {
namespace {

using nlohmann::json;

Node parsed(const std::string& text) {
  std::vector<ParseFault> faults;
  return parse(text, "t.yaml", faults).value();
}

TEST_CASE("a node that is nothing is null") {
  const Node node;
  CHECK(node.type() == Type::null);
  CHECK(node.is_scalar());
  CHECK(node.text().empty());
  CHECK(node.items().empty());
  CHECK(node.entries().empty());
  CHECK(node.find("a") == nullptr);
  CHECK(node.to_json() == nullptr);
}

TEST_CASE("a change makes a new node and leaves the old one") {
  const Node before = parsed("a: 1\nb: {c: 2}\n");
  const Node after = before.with("a", {}, Node::scalar("3", false, {})).with("d", {}, Node::scalar("x", false, {}));
  CHECK(before.to_json() == json{{"a", 1}, {"b", {{"c", 2}}}});
  CHECK(after.to_json() == json{{"a", 3}, {"b", {{"c", 2}}}, {"d", "x"}});
  CHECK(after.entries()[0].key == "a");  // replaced in place
  CHECK(after.entries()[0].key_mark.line == 1);
  CHECK(after.without("b").to_json() == json{{"a", 3}, {"d", "x"}});
  CHECK(after.without("nothing").to_json() == after.to_json());
  // What did not change is shared, not copied.
  CHECK(&after.find("b")->entries() == &before.find("b")->entries());
}

/// Through text and back.
json round(const json& value) {
  std::vector<ParseFault> faults;
  const std::string text = to_text(value);
  const std::optional<Node> node = parse(text, "t.yaml", faults);
  INFO(text);
  for (const ParseFault& fault : faults) UNSCOPED_INFO(fault.problem);
  REQUIRE(node);
  return node->to_json();
}

TEST_CASE("to_text is block style with quoted strings") {
  CHECK(to_text({{"a", 1},
                 {"b", {{"c", "x"}, {"d", json::array({1, json::object(), json{{"e", true}, {"f", nullptr}}})}}}}) ==
        "a: 1\nb:\n  c: \"x\"\n  d:\n    - 1\n    - {}\n    - e: true\n      f: null\n");
  CHECK(to_text("x") == "\"x\"\n");
  CHECK(to_text(json::array()) == "[]\n");
  CHECK(to_text(json::array({json::array({1, 2}), 3})) == "- - 1\n  - 2\n- 3\n");
}

TEST_CASE("to_text can be read back to the same value and type") {
  std::string every_character;
  for (char32_t c = 1; c < 0x250; ++c) {
    if (c < 0x80) {
      every_character += static_cast<char>(c);
    } else {
      every_character += static_cast<char>(0xC0 | (c >> 6));
      every_character += static_cast<char>(0x80 | (c & 0x3F));
    }
  }
  for (const std::string& text :
       {every_character, std::string(), std::string("\n"), std::string(" x "), std::string("# no comment"),
        std::string("\u2028\u2029\uFEFF\uFFFD\uE000\U0001F525\U0010FFFF"), std::string("\xEF\xBF\xBE\xEF\xBF\xBF"),
        std::string("true"), std::string("12"), std::string("~"), std::string("*alias"), std::string("${vars.x}"),
        std::string("---"), std::string(100'000, 'x'), std::string("'\"\\")}) {
    CHECK(round(text) == text);
    CHECK(round({{"key", text}}) == json{{"key", text}});
    CHECK(round(json::array({text, {{"x", text}}})) == json::array({text, {{"x", text}}}));
    if (!text.empty()) CHECK(round({{text, {{text, 1}}}}) == json{{text, {{text, 1}}}});
  }
  for (const char* key :
       {"null", "Null", "NULL", "~", "<<", "true", "12", "-", "a b", "a: b", "?", "&a", "!a", "a#b", "_a.b-c"}) {
    CHECK(round({{key, 1}}) == json{{key, 1}});
  }
  for (const json& number : {json(0), json(-1), json(std::numeric_limits<std::int64_t>::max()),
                             json(std::numeric_limits<std::int64_t>::min()), json(0.1), json(1.0), json(-0.0),
                             json(1e300), json(5e-324), json(1e22), json(1e15), json(123456789.125)}) {
    const json back = round({{"n", number}})["n"];
    CHECK(back.dump() == number.dump());
    CHECK(back.type() == (number.is_number_float() ? json::value_t::number_float : json::value_t::number_integer));
  }
  CHECK(std::isnan(round({{"n", std::nan("")}})["n"].get<double>()));
  CHECK(round({{"n", -std::numeric_limits<double>::infinity()}})["n"] == -std::numeric_limits<double>::infinity());
  const json nested = {{"a", json::array({json::array({json::array()}), json::object({{"b", json::object()}})})},
                       {"c", nullptr}};
  CHECK(round(nested) == nested);
}

}  // namespace
}  // namespace braise::yaml
