// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/generation.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"

namespace braise::infer {
namespace {

TEST_CASE("finish reasons have the words of the schema") {
  for (const Finish finish : {Finish::kLength, Finish::kStop, Finish::kEndOfDocument, Finish::kPositions}) {
    CHECK(finish_named(name(finish)) == finish);
  }
  CHECK(name(Finish::kEndOfDocument) == "end_of_document");
  CHECK_THROWS_AS(finish_named("tired"), core::Error);
}

TEST_CASE("completions of any bytes are JSON, and lose nothing") {
  const Origin origin{3, 1, 42, "How \u00e4?"};
  const nlohmann::json plain = to_json(origin, {{65, 256}, "A\n\"\u20ac", Finish::kEndOfDocument});
  CHECK(plain == nlohmann::json({{"prompt_index", 3},
                                 {"sample", 1},
                                 {"seed", 42},
                                 {"prompt", "How \u00e4?"},
                                 {"completion", "A\n\"\u20ac"},
                                 {"tokens", {65, 256}},
                                 {"finish_reason", "end_of_document"}}));
  const auto of = [&](const std::string& text) {
    const nlohmann::json json = to_json(origin, {{1}, text, Finish::kLength});
    CHECK(nlohmann::json::parse(json.dump()) == json);  // dump() refuses what is not UTF-8
    return json;
  };
  const nlohmann::json torn = of("a\xe2\x82");
  CHECK(torn.at("completion") == "a\ufffd");
  CHECK(torn.at("completion_base64") == "YeKC");
  const nlohmann::json strange = of(std::string("\xff\x00z\xc3\xa4\x80", 6));
  CHECK(strange.at("completion") == std::string("\ufffd\0z\u00e4\ufffd", 10));
  CHECK(strange.at("completion_base64") == "/wB6w6SA");
  CHECK_FALSE(of("").contains("completion_base64"));
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  CHECK(of(every).at("completion_base64").get<std::string>().size() == 344);
}

TEST_CASE("completions are shown without control characters") {
  const Origin origin{0, 2, 1, "Say \x1b[31m"};
  const std::string text =
      to_text(origin, {{1, 2, 3}, "a\tb\nc\r\x07\x7f\u009b\u00e9\u20ac\U0001f600\xff\xe2\x82!", Finish::kStop});
  CHECK(text ==
        "--- prompt 0, sample 2: 3 tokens, stop\n"
        "Say \\x1b[31ma\tb\nc\\x0d\\x07\\x7f\\xc2\\x9b\u00e9\u20ac\U0001f600\\xff\\xe2\\x82!\n\n");
}

}  // namespace
}  // namespace braise::infer
