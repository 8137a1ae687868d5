// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runner/recipe/recipe.h"
#include "tests/support/support.h"

namespace braise::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kHead = "recipe: 1\nname: x\n";

Recipe good(const std::string& text, const Overrides& overrides = {}) {
  stages::Faults faults;
  const std::optional<Document> document = load_text(text, "r.yaml", "/base", overrides, faults);
  REQUIRE(document);
  std::optional<Recipe> recipe = resolve(*document, {}, faults);
  CHECK(stages::to_string(faults) == "");
  REQUIRE(recipe);
  return *recipe;
}

std::string bad(const std::string& text) {
  stages::Faults faults;
  const std::optional<Document> document = load_text(text, "r.yaml", "/base", {}, faults);
  REQUIRE(document);
  CHECK_FALSE(resolve(*document, {}, faults));
  return stages::to_string(faults);
}

TEST_CASE("a stage holds its kind's own keys, typed, with defaults") {
  const Recipe recipe = good(kHead +
                             "seed: 3\nresources: {threads: 2, time_limit: 1min}\nstages:\n"
                             "  b: {kind: check, duration: 2, after: [a], resources: {threads: 4}}\n"
                             "  a: {kind: check, gemm_size: 1e3, seed: 9}\n");
  CHECK(recipe.name == "x");
  CHECK(recipe.description.empty());
  CHECK(recipe.seed == 3);
  REQUIRE(recipe.stages.size() == 2);
  const Stage& b = recipe.stages[0];  // in the order written
  CHECK(b.name == "b");
  CHECK(b.kind == "check");
  CHECK(b.seed == 3);
  CHECK(b.after == std::vector<std::string>{"a"});
  CHECK(b.mark.line == 6);
  CHECK(b.mark.column == 3);
  CHECK(b.config == json{{"duration", 2.0},
                         {"message_size", 1 << 20},
                         {"memory_size", 128 << 20},
                         {"gemm_size", 1024},
                         {"scratch_size", 1 << 20},
                         {"free_memory", 0},
                         {"free_disk", 0}});
  CHECK(b.config["duration"].is_number_float());
  CHECK(b.resources.threads == 4);
  CHECK(b.resources.time_limit_s == 60);
  CHECK(b.resources.hang_timeout_s == 600);
  CHECK(b.resources.device == "cpu");
  const Stage& a = recipe.stages[1];
  CHECK(a.seed == 9);
  CHECK(a.resources.threads == 2);
  CHECK(a.config["gemm_size"].is_number_integer());
  CHECK(a.config["gemm_size"] == 1000);
}

TEST_CASE("equal values written differently resolve to the same text") {
  const auto text = [](const char* duration, const char* size) {
    return good(kHead + "stages: {a: {kind: check, duration: " + duration + ", message_size: " + size + "}}\n")
        .resolved.dump();
  };
  CHECK(text("90", "1048576") == text("1min 30s", "1MiB"));
  CHECK(text("90.0", "0x100000") == text("00:01:30", "1048576 B"));
}

TEST_CASE("references to outputs and to the run stay, and are listed") {
  const Recipe recipe =
      good(kHead +
           "stages:\n  a: {kind: tokenize, input: /a.txt}\n"
           "  b:\n    kind: tokenize\n    input: [\"${stages.a.tokens}\", {path: \"${stages.a.tokens}\"}, "
           "\"${run.dir}/x\", \"${run.scratch}\"]\n"
           "  c: {kind: tokenize, input: \"${stages.b.tokens}\", text_key: \"${stages.a.tokens}\"}\n");
  const Stage& b = recipe.stages[1];
  CHECK(
      b.config["input"] ==
      json::array(
          {"${stages.a.tokens}", {{"path", "${stages.a.tokens}"}, {"sha256", ""}}, "${run.dir}/x", "${run.scratch}"}));
  REQUIRE(b.references.size() == 2);
  CHECK(b.references[0].stage == "a");
  CHECK(b.references[0].output == "tokens");
  CHECK(b.references[0].pointer == "/input/0");
  CHECK(b.references[1].pointer == "/input/1/path");
  CHECK(recipe.stages[0].references.empty());
  const Stage& c = recipe.stages[2];
  REQUIRE(c.references.size() == 2);
  for (const Reference& reference : c.references) {
    const json pointed = c.config[json::json_pointer(reference.pointer)];
    CHECK(pointed == "${stages." + reference.stage + "." + reference.output + "}");
  }
}

TEST_CASE("relative paths start at the folder of the file they are written in") {
  const test::TemporaryFolder folder;
  const fs::path vars = folder.write("v/vars.yaml", "whole: from_vars.txt\n");
  const std::string text = kHead +
                           "vars: {whole: x, part: p}\nstages:\n  a:\n    kind: tokenize\n    input:\n"
                           "      - a.txt\n      - ./b/*.txt\n      - ../c.txt\n      - /d.txt\n      - ~/e.txt\n"
                           "      - ${vars.whole}\n      - ${vars.part}/f.txt\n      - {path: .hidden}\n"
                           "  b: {kind: tokenize, input: g.txt}\n";
  const Recipe recipe = good(text, {{"stages.b.input=set.txt"}, {vars}});
  CHECK(recipe.stages[0].config["input"] == json::array({"/base/a.txt",
                                                         "/base/b/*.txt",
                                                         "/base/../c.txt",
                                                         "/d.txt",
                                                         "/base/~/e.txt",
                                                         (folder.path() / "v/from_vars.txt").string(),
                                                         "/base/p/f.txt",
                                                         {{"path", "/base/.hidden"}, {"sha256", ""}}}));
  CHECK(recipe.stages[1].config["input"] == (fs::current_path() / "set.txt").string());
}

TEST_CASE("a folder whose name holds glob characters stands for itself") {
  stages::Faults faults;
  const Document document =
      load_text(kHead + "stages: {a: {kind: tokenize, input: \"[ab]*.txt\"}}\n", "r.yaml", "/a[1]*?", {}, faults)
          .value();
  CHECK(resolve(document, {}, faults).value().stages[0].config["input"] == "/a[[]1][*][?]/[ab]*.txt");
}

TEST_CASE("variables take the place and the type of what they refer to") {
  const Recipe recipe =
      good(kHead +
           "vars: {n: 4, text: \"4\", deep: {list: [{path: /a.txt}]}, again: \"${vars.deep}\"}\n"
           "description: ${vars.n}-${vars.text}\n"
           "resources: {threads: \"${vars.n}\"}\n"
           "stages: {a: {kind: tokenize, input: \"${vars.again.list}\", text_key: \"${vars.text}\"}}\n");
  CHECK(recipe.description == "4-4");
  CHECK(recipe.resolved["resources"]["threads"] == 4);
  CHECK(recipe.stages[0].config["text_key"] == "4");
  CHECK(recipe.stages[0].config["input"][0]["path"] == "/a.txt");
  CHECK(recipe.resolved["vars"]["again"] == recipe.resolved["vars"]["deep"]);
}

TEST_CASE("the environment is read only where it is listed, and what is listed is recorded") {
  ::setenv("BRAISE_TEST_SET", "12 $${x} ${y}", 1);
  ::setenv("BRAISE_TEST_NUMBER", "2", 1);
  ::setenv("BRAISE_TEST_EMPTY", "", 1);
  ::unsetenv("BRAISE_TEST_UNSET");
  const std::string stages = "stages: {a: {kind: check}}\n";
  const Recipe recipe = good(kHead +
                             "env: [BRAISE_TEST_SET, BRAISE_TEST_NUMBER, BRAISE_TEST_UNSET, BRAISE_TEST_EMPTY]\n"
                             "description: \"${env.BRAISE_TEST_SET}${env.BRAISE_TEST_EMPTY}\"\n"
                             "resources: {threads: \"${env.BRAISE_TEST_NUMBER}\"}\n" +
                             stages);
  CHECK(recipe.environment == std::map<std::string, std::string>{{"BRAISE_TEST_SET", "12 $${x} ${y}"},
                                                                 {"BRAISE_TEST_NUMBER", "2"},
                                                                 {"BRAISE_TEST_EMPTY", ""}});
  CHECK(recipe.description == "12 $${x} ${y}");  // taken literally
  CHECK(recipe.resolved["description"] == "12 $$${x} $${y}");
  CHECK(recipe.resolved["resources"]["threads"] == 2);
  CHECK(good(kHead + stages).environment.empty());

  ::setenv("BRAISE_TEST_SET", "\xff", 1);
  CHECK(bad(kHead + "env: [BRAISE_TEST_SET]\ndescription: ${env.BRAISE_TEST_SET}\n" + stages) ==
        "r.yaml:4:14: description: environment variable `BRAISE_TEST_SET` is not plain UTF-8 text; set it to UTF-8 "
        "text\n");
}

TEST_CASE("an escape is literal text in a stage") {
  const Recipe recipe = good(
      kHead + "vars: {v: [\"$${a}\"]}\nstages: {s: {kind: tokenize, text_key: \"x$${b}\", input: \"${vars.v}\"}}\n");
  CHECK(recipe.stages[0].config["text_key"] == "x${b}");
  CHECK(recipe.stages[0].config["input"][0] == "/base/${a}");
  CHECK(recipe.resolved["stages"]["s"]["text_key"] == "x$${b}");
  CHECK(recipe.resolved["vars"]["v"][0] == "$${a}");
}

TEST_CASE("a reference chain may be long, not endless") {
  const auto chain = [](int length) {
    std::string text = kHead + "vars:\n  v0: 1\n";
    for (int i = length; i > 0; --i) text += "  v" + std::to_string(i) + ": ${vars.v" + std::to_string(i - 1) + "}\n";
    return text + "stages: {a: {kind: check}}\n";
  };
  CHECK(good(chain(99)).resolved["vars"]["v99"] == 1);
  CHECK(bad(chain(5000)).find("refers on through more than 100 variables") != std::string::npos);
}

TEST_CASE("text that doubles at every step is refused") {
  std::string text = kHead + "vars:\n  v0: xxxxxxxxxxxxxxxx\n";
  for (int i = 1; i < 60; ++i) {
    const std::string before = "${vars.v" + std::to_string(i - 1) + "}";
    text += "  v" + std::to_string(i) + ": " + before + before + "\n";
  }
  CHECK(bad(text + "stages: {a: {kind: check}}\n").find("references expand to more than") != std::string::npos);
}

TEST_CASE("every cycle among stages is reported, whole") {
  CHECK(bad(kHead +
            "stages:\n  a: {kind: check, after: [b]}\n  b: {kind: check, after: [a]}\n  c: {kind: check, after: [c]}\n"
            "  d: {kind: check, after: [a, e]}\n  e: {kind: check}\n") ==
        "r.yaml:4:28: stages.a.after.0: stages wait for each other: a -> b -> a; break the cycle\n"
        "r.yaml:6:28: stages.c.after.0: stages wait for each other: c -> c; break the cycle\n");
}

TEST_CASE("very many stages in one chain are no trouble") {
  std::string text = kHead + "stages:\n  s0: {kind: check}\n";
  for (int i = 1; i < 5000; ++i)
    text += "  s" + std::to_string(i) + ": {kind: check, after: [s" + std::to_string(i - 1) + "]}\n";
  CHECK(good(text).stages.size() == 5000);
  text += "  last: {kind: check, after: [s4999, last]}\n";
  CHECK(bad(text) ==
        "r.yaml:5004:38: stages.last.after.1: stages wait for each other: last -> last; break the cycle\n");
}

TEST_CASE("a kind's rules are not asked of a stage that is faulty already") {
  const std::string faults = bad(kHead + "stages: {a: {kind: tokenize, input: /a, shard_size: 2GiB, format: hmtl}}\n");
  CHECK(faults == "r.yaml:3:67: stages.a.format: is \"hmtl\"; must be `auto`, `text` or `jsonl`\n");
}

TEST_CASE("a rule's fault stands where the value was written, or where the stage is") {
  const std::string written = bad(kHead + "stages: {a: {kind: tokenize, input: /a, shard_size: 2GiB}}\n");
  CHECK(written.find("r.yaml:3:53: stages.a.shard_size: ") == 0);
  const std::string by_default =
      bad(kHead + "resources: {host_memory: 16MiB}\nstages: {a: {kind: check, message_size: 1, gemm_size: 16}}\n");
  CHECK(by_default.find("r.yaml:4:10: stages.a.memory_size: ") == 0);
}

}  // namespace
}  // namespace braise::recipe
