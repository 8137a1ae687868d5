// SPDX-License-Identifier: Apache-2.0
#include "stages/api/fault.h"

#include <catch2/catch.hpp>

namespace braise::stages {
namespace {

yaml::Mark mark(const char* file, int line, int column) {
  return {std::make_shared<const std::string>(file), line, column};
}

TEST_CASE("a fault is one line: place, path, problem, remedy") {
  CHECK(to_string(Fault{mark("a.yaml", 3, 7), "stages.a.steps", "is 0", "must be a whole number from 1"}) ==
        "a.yaml:3:7: stages.a.steps: is 0; must be a whole number from 1");
  CHECK(to_string(Fault{mark("a.yaml", 0, 0), "", "does not exist", "name another"}) ==
        "a.yaml: does not exist; name another");
  CHECK(to_string(Fault{{}, "seed", "is -1", ""}) == "seed: is -1");
}

TEST_CASE("no part of a fault can break the line or colour the terminal") {
  const std::string text = to_string(Fault{mark("a\nb.yaml", 1, 1), "x\x1b[31m", "is \"\r\n\"", "\x7f"});
  CHECK(text == "a\\nb.yaml:1:1: x\\x1b[31m: is \"\\x0d\\n\"; \\x7f");
}

TEST_CASE("faults are listed by file, line and column, each once") {
  const Faults faults = {
      {mark("b.yaml", 1, 1), "", "fourth", ""}, {mark("a.yaml", 10, 1), "", "third", ""},
      {mark("a.yaml", 2, 9), "", "second", ""}, {mark("a.yaml", 2, 1), "", "first", ""},
      {mark("a.yaml", 2, 9), "", "second", ""},
  };
  CHECK(to_string(faults) == "a.yaml:2:1: first\na.yaml:2:9: second\na.yaml:10:1: third\nb.yaml:1:1: fourth\n");
  CHECK(to_string(Faults{}).empty());
}

TEST_CASE("many faults are listed in no time") {
  Faults faults;
  for (int i = 0; i < 100'000; ++i)
    faults.push_back({mark("a.yaml", i + 1, 1), "key" + std::to_string(i), "unknown key", ""});
  CHECK(to_string(faults).size() > 2'000'000);
}

TEST_CASE("printable escapes what shows nothing and cuts what is long") {
  CHECK(printable("żółw") == "żółw");
  CHECK(printable("a\tb\nc\x01") == "a\\tb\\nc\\x01");
  CHECK(printable("\xff\xc3") == "\\xff\\xc3");
  CHECK(printable("a\u200bb\u202ec\u0085d") == "a\\xe2\\x80\\x8bb\\xe2\\x80\\xaec\\xc2\\x85d");
  CHECK(printable("日本語", 2) == "日本...");
  CHECK(printable("日本語", 3) == "日本語");
  CHECK(printable(std::string("a\0b", 3)) == "a\\x00b");
}

TEST_CASE("nearest finds what was meant, and nothing where nothing was") {
  const std::vector<std::string> keys = {"kind", "steps", "threads", "validation"};
  CHECK(nearest("stpes", keys) == "steps");
  CHECK(nearest("thread", keys) == "threads");
  CHECK(nearest("validatoin", keys) == "validation");
  CHECK(nearest("knd", keys) == "kind");
  CHECK(nearest("optimizer", keys).empty());
  CHECK(nearest("", keys).empty());
  CHECK(nearest("steps", {}).empty());
  CHECK(nearest(std::string(1'000'000, 'x'), keys).empty());
}

}  // namespace
}  // namespace braise::stages
