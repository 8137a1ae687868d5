// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "stages/shared/io/json_lines.h"
#include "tests/stages/infer/tiny_model.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;

TEST_CASE("a recipe that continues prompts shows what came of them, and what has run is reused") {
  const test::TemporaryFolder folder;
  test::write_hugging_face(folder.path() / "odd[1]/model", test::byte_model(), 2);
  const fs::path recipe = folder.write("odd[1]/story.yaml", R"(recipe: 1
name: story
resources: {workers_per_node: 2, host_memory: 64MiB}
stages:
  story:
    kind: infer
    model: model
    tokenizer: {kind: bytes}
    prompts: ["Once upon ", "A"]
    sampling: {max_tokens: 5}
  greedy:
    kind: infer
    after: [story]
    model: model
    tokenizer: {kind: bytes}
    prompts: [{path: "${stages.story.generations}", text_key: completion}]
    sampling: {temperature: 0, max_tokens: 3}
)");
  const auto run = [&] {
    return test::run_program({test::program("braise"), "run", recipe, "--runs", folder.path() / "runs"});
  };
  const test::Finished first = run();
  INFO(first.err);
  REQUIRE(first.status == 0);
  const fs::path run_dir = first.out.substr(0, first.out.size() - 1);
  CHECK_THAT(first.err,
             Contains("--- prompt 0, sample 0: ") && Contains("\nOnce upon ") && Contains("story: jobs/story/"));
  for (const auto& attempt : fs::directory_iterator(run_dir / "jobs/greedy/attempts")) {
    CHECK(io::read_json_lines(attempt.path() / "artifacts/generations.jsonl").objects.size() == 2);
  }
  const test::Finished second = run();
  REQUIRE(second.status == 0);
  CHECK_THAT(second.err, Contains("story: not run, unchanged since"));
  CHECK_THAT(second.err, Contains("\nOnce upon "));

  const test::Finished planned =
      test::run_program({test::program("braise"), "plan", recipe, "--runs", folder.path() / "other"});
  CHECK_THAT(planned.out, Contains("2 completions"));
  // A model that is not there is told before anything runs.
  fs::remove_all(folder.path() / "odd[1]/model");
  const test::Finished missing = run();
  CHECK(missing.status == 2);
  CHECK_THAT(missing.err, Contains("story.yaml:7:12: stages.story.model: no file matches"));
}

}  // namespace
}  // namespace braise
