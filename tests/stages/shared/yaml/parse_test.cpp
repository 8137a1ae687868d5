// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/yaml/parse.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace braise::yaml {
namespace {

using nlohmann::json;

/// The value of a text that must be good.
Node good(const std::string& text) {
  std::vector<ParseFault> faults;
  const std::optional<Node> node = parse(text, "t.yaml", faults);
  INFO(text);
  for (const ParseFault& fault : faults) UNSCOPED_INFO(fault.problem);
  REQUIRE(node);
  REQUIRE(faults.empty());
  return *node;
}

/// "line:column problem" of each fault of a text that must be bad.
std::vector<std::string> bad(const std::string& text) {
  std::vector<ParseFault> faults;
  CHECK_FALSE(parse(text, "t.yaml", faults));
  std::vector<std::string> lines;
  for (const ParseFault& fault : faults) {
    CHECK(*fault.at.file == "t.yaml");
    CHECK_FALSE(fault.remedy.empty());
    lines.push_back(std::to_string(fault.at.line) + ":" + std::to_string(fault.at.column) + " " + fault.problem);
  }
  return lines;
}

using Lines = std::vector<std::string>;

std::string place(const Node& node) {
  return std::to_string(node.mark().line) + ":" + std::to_string(node.mark().column);
}

TEST_CASE("scalars are typed by the core schema of YAML 1.2") {
  const auto value = [](const std::string& text) { return good("v: " + text + "\n").find("v")->to_json(); };
  for (const char* text : {"", "~", "null", "Null", "NULL"}) CHECK(value(text) == nullptr);
  for (const char* text : {"true", "True", "TRUE"}) CHECK(value(text) == true);
  for (const char* text : {"false", "False", "FALSE"}) CHECK(value(text) == false);
  for (const char* text : {"yes", "no",  "on", "off", "y",  "n", "tRUE", "nULL",  "1_000",      "0b1", "1:30",
                           "0x",  "0o8", "1e", ".",   "--", "+", "e3",   "1.2.3", "-.infinity", "Nan", "0xg"}) {
    CHECK(value(text) == text);
  }
  CHECK(value("12") == 12);
  CHECK(value("-12") == -12);
  CHECK(value("+12") == 12);
  CHECK(value("0644") == 644);
  CHECK(value("0o20") == 16);
  CHECK(value("0x1F") == 31);
  CHECK(value("9223372036854775807") == 9223372036854775807);
  CHECK(value("-9223372036854775808").get<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(value("9223372036854775808").is_number_float());
  CHECK(value("12").is_number_integer());
  for (const char* text : {"1.5", "+1.5", "15e-1", "1.5E+0", "1.50"}) CHECK(value(text) == 1.5);
  CHECK(value("1.").is_number_float());
  CHECK(value(".5") == 0.5);
  CHECK(value("1e3").is_number_float());
  CHECK(value(".inf") == std::numeric_limits<double>::infinity());
  CHECK(value("-.INF") == -std::numeric_limits<double>::infinity());
  CHECK(std::isnan(value(".nan").get<double>()));
  for (const char* text : {"\"12\"", "'true'", "!!str 12", "! 12", "|\n  12\n"}) CHECK(value(text).is_string());
  CHECK(value("!!int 12") == 12);
  CHECK(value("!!float 12") == 12);
}

TEST_CASE("escapes stand for their characters, in UTF-8") {
  const auto value = [](const std::string& text) { return good("v: \"" + text + "\"\n").find("v")->to_json(); };
  CHECK(value("a\\_b") == "a\u00a0b");
  CHECK(value("\\N") == "\u0085");
  CHECK(value("é\\_\\N\\_é") == "é\u00a0\u0085\u00a0é");
  CHECK(value("\\L\\P\\xe9\\u20ac\\U0001F600\\t") == "\u2028\u2029é€\U0001F600\t");
  CHECK(good("\"k\\_\": 1\n").find("k\u00a0") != nullptr);
}

TEST_CASE("every value knows its place, in characters") {
  const Node root =
      good("# comment\nżółw: żaba\nlist:\n  - ć: [ź, 'ż']\nempty:\nafter: {x: , y: }\nitems:\n  -\n  - ~\n");
  CHECK(place(*root.find("żółw")) == "2:7");
  const Node& item = root.find("list")->items()[0];
  CHECK(place(item) == "4:5");
  CHECK(place(item.find("ć")->items()[1]) == "4:12");
  CHECK(root.find("list")->items()[0].entries()[0].key_mark.column == 5);
  CHECK(place(*root.find("empty")) == "5:1");
  CHECK(place(*root.find("after")->find("x")) == "6:9");
  CHECK(place(root.find("items")->items()[0]) == "8:3");
  CHECK(place(root.find("items")->items()[1]) == "9:5");
}

TEST_CASE("a byte order mark and Windows line ends change nothing") {
  const Node root = good(
      "\xEF\xBB\xBF"
      "a: 1\r\nb: |\r\n  x\r\n  y\r\nc: \"d\"\r\n");
  CHECK(root.to_json() == json{{"a", 1}, {"b", "x\ny\n"}, {"c", "d"}});
  CHECK(place(*root.find("a")) == "1:4");
  CHECK(place(*root.find("c")) == "5:4");
}

TEST_CASE("what is not UTF-8 text is refused at its place") {
  CHECK(bad("a: b\nc: ż\xff\n") == Lines{"2:5 byte 0xff is not UTF-8"});
  CHECK(bad("a: \xc0\xaf\n") == Lines{"1:4 byte 0xc0 is not UTF-8"});
  CHECK(bad("a: \xed\xa0\x80\n") == Lines{"1:4 byte 0xed is not UTF-8"});
  CHECK(bad("a: \xf4\x90\x80\x80\n") == Lines{"1:4 byte 0xf4 is not UTF-8"});
  CHECK(bad("a: \xe2\x82") == Lines{"1:4 byte 0xe2 is not UTF-8"});
  CHECK(bad(std::string("abc\0d", 5)) == Lines{"1:4 a NUL character"});
  CHECK(bad(std::string("a\0b\0", 4)) == Lines{"1:1 is UTF-16 text"});
  CHECK(bad("\xff\xfe"
            "a") == Lines{"1:1 is UTF-16 text"});
  CHECK(bad("a: \x1b[0m\n") == Lines{"1:4 control character U+001B"});
  CHECK(bad("a: \x7f\n") == Lines{"1:4 control character U+007F"});
  CHECK(bad("a: \xc2\x80\n") == Lines{"1:4 control character U+0080"});
  CHECK(bad("a: b\rc: d\n") == Lines{"1:5 a carriage return that ends no line"});
  CHECK(bad("a: \"\\0\"\n") == Lines{"1:4 holds a NUL character"});
}

TEST_CASE("tabs indent nothing") {
  const Lines first = {"2:1 a tab in the indentation"};
  CHECK(bad("a:\n\tb: 1\n") == first);
  CHECK(bad("a:\n\t- 1\n") == first);
  CHECK(bad("a: word\n\tgoes on\n") == first);
  CHECK(bad("a: |\n\ttext\n") == first);
  CHECK(bad("a: 'it''s'\n\tb: 1\n") == first);
  CHECK(bad("a: \"x\\\"\"\n\tb: 1\n") == first);
  CHECK(bad("a: it's\n\tb: 1\n") == first);
  CHECK(bad("a: [1, 'b]']\n\tb: 1\n") == first);
  CHECK(bad("a: b # [\n\tb: 1\n") == first);
  CHECK(bad("a:\n  - |\n   text\n  \tb: 1\n") == Lines{"4:3 a tab in the indentation"});
  CHECK(bad("a:\n  b: |\n    text\n  \tc: 1\n") == Lines{"4:3 a tab in the indentation"});
}

TEST_CASE("tabs that indent nothing are left alone") {
  CHECK(good("a:\t1\t# x\n\t# comment\nb: 2\n").to_json() == json{{"a", 1}, {"b", 2}});
  CHECK(good("a: {\n\tb: [\n\t\t1,\n\t\t\"x\"\n\t]\n}\n").to_json() == json{{"a", {{"b", {1, "x"}}}}});
  CHECK(good("a: |\n  x\n  \ty\nb: >-\n  c\nd:\n  - |-\n   \tz\n").to_json() ==
        json{{"a", "x\n\ty\n"}, {"b", "c"}, {"d", {"\tz"}}});
  CHECK(good("a: \"x\n\ty\"\nb: 'x\n\ty'\n").to_json() == json{{"a", "x y"}, {"b", "x y"}});
  CHECK(good("--- |\n \ttext\n").to_json() == "\ttext\n");
}

TEST_CASE("syntax errors say what to do") {
  CHECK(bad("a: [1, 2\nb: 1\n")[0].find("end of sequence flow") != std::string::npos);
  CHECK(bad("x: y\na: \"b\nc: d\n") == Lines{"2:4 YAML syntax: a quote is never closed"});
  CHECK(bad("a: 'b") == Lines{"1:4 YAML syntax: a quote is never closed"});
  CHECK(bad("a: b: c\n") == Lines{"1:5 YAML syntax: illegal map value"});
  CHECK(bad("a: @b\n") == Lines{"1:4 YAML syntax: unknown token"});
  CHECK(bad("a: \"\\q\"\n")[0].find("unknown escape character: q") != std::string::npos);
  CHECK(bad("a: \"\\ud800\"\n")[0].find("invalid unicode") != std::string::npos);
  CHECK(bad("a: {b: ${c}}\n").size() == 1);
}

TEST_CASE("a file is one document") {
  CHECK(bad("") == Lines{"1:1 is empty"});
  CHECK(bad("# nothing\n") == Lines{"1:1 is empty"});
  CHECK(bad("a: 1\n---\nb: 2\n") == Lines{"2:1 a second document begins"});
  CHECK(bad("[1]\nb: 2\n") == Lines{"2:1 text after the end of the document"});
  CHECK(good("--- {a: 1}\n...\n").to_json() == json{{"a", 1}});
}

TEST_CASE("keys are text, each once, and all faults are reported") {
  CHECK(bad("a: 1\nb: {c: 1, c: 2, c: 3}\na: 2\n[x]: 1\n{y: z}: 1\n~: 1\n") ==
        Lines{"2:11 key `c` is given twice in one map", "2:17 key `c` is given twice in one map",
              "3:1 key `a` is given twice in one map", "4:1 a key is a list", "5:1 a key is a map",
              "6:1 a key is empty"});
  CHECK(bad("a: !local 1\nb: !!set {x}\nc: !!int x\nd: !!binary aGk=\n") ==
        Lines{"1:4 tag `!local` has no meaning here", "2:4 tag `!!set` has no meaning here",
              "3:4 tag `!!int` before a value that is text", "4:4 tag `tag:yaml.org,2002:binary` has no meaning here"});
  CHECK(good("1: a\ntrue: b\n'~': c\n").to_json() == json{{"1", "a"}, {"true", "b"}, {"~", "c"}});
}

TEST_CASE("anchors and aliases share values") {
  const Node root = good("a: &x {b: [1, 2]}\nc: *x\nd: [*x, &y z, *y]\n&k e: *k\n");
  CHECK(root.to_json() ==
        json{{"a", {{"b", {1, 2}}}}, {"c", {{"b", {1, 2}}}}, {"d", {{{"b", {1, 2}}}, "z", "z"}}, {"e", "e"}});
  CHECK(place(*root.find("c")) == "1:4");
  CHECK(good("a: &x 1\nb: &x 2\nc: *x\n").find("c")->to_json() == 2);
  CHECK(bad("a: *x\n") == Lines{"1:4 alias `*x` names no anchor"});
  CHECK(bad("a: &x [*x]\nb: &y {c: {d: *y}}\n") == Lines{"1:8 the alias stands inside the very value it names",
                                                         "2:15 the alias stands inside the very value it names"});
}

TEST_CASE("merge keys: the map's own keys win, then earlier maps") {
  const Node root = good(
      "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\n"
      "one: {<<: *x, b: 3}\ntwo: {b: 3, <<: [*y, *x]}\nnested: {<<: {<<: *y, c: 4}}\nquoted: {'<<': 1}\n");
  CHECK(root.find("one")->to_json() == json{{"a", 1}, {"b", 3}});
  CHECK(root.find("two")->to_json() == json{{"a", 1}, {"b", 3}, {"c", 2}});
  CHECK(root.find("nested")->to_json() == json{{"b", 2}, {"c", 4}});
  CHECK(root.find("quoted")->to_json() == json{{"<<", 1}});
  const auto& merged = root.find("one")->entries();
  REQUIRE(merged.size() == 2);
  CHECK(merged[0].key == "a");  // what is merged stands where the merge key stands
  CHECK(place(merged[0].value) == "1:11");
  CHECK(bad("a: {<<: 1}\nb: {<<: [{}, 2]}\nc: {<<: {}, <<: {}}\n").size() == 3);
}

TEST_CASE("nesting is limited to 100, however it is written") {
  CHECK(good(std::string(100, '[') + std::string(100, ']')).is_sequence());
  const auto too_deep = [](const std::string& text) {
    const Lines lines = bad(text);
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].find("deeper than 100") != std::string::npos);
  };
  too_deep(std::string(101, '[') + std::string(101, ']'));
  const auto repeat = [](const std::string& text, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += text;
    return all;
  };
  for (const char* opening : {"[", "{a: ", "- ", "? ", "[{a: ", "- - ", "? - "}) too_deep(repeat(opening, 100'000));
  std::string indented;
  for (std::size_t i = 0; i < 300; ++i) indented += std::string(i, ' ') + "a:\n";
  too_deep(indented);
  std::string by_alias = "a0: &a0 [1]\n";
  for (int i = 1; i <= 100; ++i) {
    by_alias += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) + "]\n";
  }
  too_deep(by_alias);
}

TEST_CASE("aliases that expand to very many values are refused, many values written out are not") {
  std::string laughs = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i < 30; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before + ", " + before + "]\n";
  }
  const Lines lines = bad(laughs);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].find("aliases expand to more than 100000 values") != std::string::npos);
  std::string plain = "[1";
  for (int i = 0; i < 100'000; ++i) plain += ",1";
  CHECK(good(plain + "]").items().size() == 100'001);
}

TEST_CASE("very long lines and very many lines take no more than their share of time") {
  std::string line = "{k: [";
  for (int i = 0; i < 20'000; ++i) line += "{ż: [1]}, ";
  CHECK(good(line + "]}\n").find("k")->items()[19'999].mark().column == 6 + 19'999 * 10);
  std::string lines;
  for (int i = 0; i < 40'000; ++i) lines += "k" + std::to_string(i) + ": 1\n";
  CHECK(good(lines).entries().size() == 40'000);
}

}  // namespace
}  // namespace braise::yaml
