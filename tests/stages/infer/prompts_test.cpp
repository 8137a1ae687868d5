// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/prompts.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "tests/support/support.h"

namespace braise::infer {
namespace {

using Catch::Contains;
using nlohmann::json;

std::vector<std::string> read(const json& prompts) {
  return read_prompts(prompts, [](const std::string&) {});
}

json file(const std::filesystem::path& path, const std::string& format = "auto") {
  return {{"path", path}, {"format", format}, {"text_key", "prompt"}};
}

TEST_CASE("prompts are texts, lines and JSON lines, in order") {
  const test::TemporaryFolder folder;
  const auto lines = folder.write("a.txt", "one\n\n  two \r\n\u00e4");
  const auto objects =
      folder.write("b.jsonl", "{\"prompt\": \"line\\nbreak\\n\"}\n\n{\"prompt\": \"x\", \"more\": 1}\n");
  CHECK(read({"first", file(lines), "", file(objects)}) ==
        std::vector<std::string>{"first", "one", "  two ", "\u00e4", "", "line\nbreak\n", "x"});
  CHECK(read(json::array({file(objects, "lines")}))[1] == "{\"prompt\": \"x\", \"more\": 1}");
  CHECK(read(json::array({file(folder.write("c.txt", "{\"prompt\": \"y\"}"), "jsonl")})) ==
        std::vector<std::string>{"y"});
}

TEST_CASE("files that give no prompts are told with the line") {
  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(read(json::array({file(folder.write("a.txt", "good\nb\xff\n"))})),
                    Contains("a.txt:2: the prompt is not UTF-8"));
  CHECK_THROWS_WITH(read(json::array({file(folder.write("b.jsonl", "{}\n"))})),
                    Contains("b.jsonl:1: has no key \"prompt\""));
  CHECK_THROWS_WITH(read(json::array({file(folder.write("c.txt", " \n"))})), Contains("there is no prompt in"));
  CHECK_THROWS_WITH(read(json::array({file(folder.path() / "none.txt")})), Contains("none.txt"));
}

}  // namespace
}  // namespace braise::infer
