// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/json.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "schemas/schemas.h"

namespace braise::io {
namespace {

using nlohmann::json;

TEST_CASE("a JSON text gives the value that nlohmann's parser gives, of the same types") {
  const std::string texts[] = {
      "null",
      " [true, false, null, \"\", 0, -1, 1, 2147483648, -2147483649, 18446744073709551615, -9223372036854775808] ",
      "[18446744073709551616, 0.1, 1e-310, 1.7976931348623157e308, 5e-324, 123456789.123456789, 1E5, -0.0, 2.5e+3]",
      R"({"b": {"a": [[], {}, [1, [2, [3]]]]}, "a": 1, "": 2, "b c": "\u00e4\ud83d\ude00\n\"\\\/\t\u0000x"})",
      R"({"a": 1, "a": 2, "c": 3, "b": 4})",
      "\"\xc3\xa4\xf0\x9f\x98\x80\"",
      schemas::schema("event.schema.json").dump(2)};
  for (const std::string& text : texts) {
    INFO(text.substr(0, 200));
    const json expected = json::parse(text), found = parse_json(text);
    CHECK(found == expected);
    const json flat = expected.flatten();
    CHECK(found.flatten().dump() == flat.dump());
    for (const auto& [pointer, value] : flat.items()) {
      CHECK(found.at(json::json_pointer(pointer)).type() == expected.at(json::json_pointer(pointer)).type());
    }
  }
}

TEST_CASE("what is not JSON, or more than it, is told apart from a value") {
  const std::string texts[] = {"",
                               " ",
                               "{",
                               "[1",
                               "[1,]",
                               "{\"a\":}",
                               "{\"a\":1,}",
                               "{a:1}",
                               "nul",
                               "01",
                               "1.",
                               "+1",
                               "'a'",
                               "\"a",
                               "\"\\x\"",
                               "\"\n\"",
                               "NaN",
                               "1e999",
                               "[1] 2",
                               "{} x",
                               "\"\xff\"",
                               "\"\xc3\"",
                               "\"\\ud800\"",
                               std::string("\0{}", 3),
                               std::string(100'000, '[')};
  for (const std::string& text : texts) {
    INFO(text.substr(0, 20));
    CHECK(json::parse(text, nullptr, false).is_discarded());
    CHECK(parse_json(text).is_discarded());
  }
  // nlohmann's takes a zero byte for the end; a file that lost its last block has many.
  for (const std::string& text : {std::string("{}\0", 3), std::string("{}\0{}", 5)}) {
    CHECK(parse_json(text).is_discarded());
  }
  const json deep = parse_json(std::string(100'000, '[') + std::string(100'000, ']'));
  CHECK(deep.is_array());
}

}  // namespace
}  // namespace braise::io
