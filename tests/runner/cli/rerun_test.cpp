// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using Catch::Contains;
using Words = std::vector<std::string>;

const char* const kTraining = R"(recipe: 1
name: small
resources: {workers_per_node: 2, hang_timeout: 60s}
stages:
  corpus: {kind: tokenize, input: text.txt, validation: {fraction: 0.1, take: tail}}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 32}
    model: {family: llama, layers: 1, hidden: 32, heads: 2}
    steps: 8
    batch: {global: 8, micro: 2}
    optimizer: {lr: 1e-2, clip: 1.0}
    checkpoint: {every: 4, keep: 2}
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// A folder with a run of a small training.
struct Trained {
  test::TemporaryFolder folder;
  fs::path text, runs, run;

  Trained() : runs(folder.path() / "runs") {
    std::string words;
    for (int i = 0; i < 2000; ++i) words += std::to_string(i * i) + (i % 7 == 0 ? "\n" : " ");
    text = folder.write("text.txt", words);
    const fs::path recipe = folder.write("small.yaml", kTraining);
    const test::Finished finished = test::run_program({test::program("braise"), "run", recipe, "--runs", runs});
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    run = last_line(finished.out);
  }

  static std::string last_line(const std::string& text) {
    const std::size_t begin = text.rfind('\n', text.size() - 2);
    return text.substr(begin == std::string::npos ? 0 : begin + 1,
                       text.size() - 1 - (begin == std::string::npos ? 0 : begin + 1));
  }

  test::Finished rerun(const std::string& target, Words more = {}) const {
    Words words = {test::program("braise"), "rerun", target, "--runs", runs, "--in", folder.path() / "again"};
    words.insert(words.end(), more.begin(), more.end());
    return test::run_program(words);
  }
  std::size_t reruns() const {
    const fs::path in = folder.path() / "again";
    return fs::exists(in) ? static_cast<std::size_t>(std::distance(fs::directory_iterator(in), {})) : 0;
  }
};

TEST_CASE("a run comes out again to the bit: on half the workers, moved, and from an archive") {
  const Trained trained;
  const test::Finished half = trained.rerun(trained.run, {"--workers", "1"});
  INFO(half.err << half.out);
  REQUIRE(half.status == 0);
  CHECK_THAT(half.out, Contains("corpus: identical outputs\n") &&
                           Contains("pretrain: identical through step 8: 8 losses, the checkpoints of 2 steps\n") &&
                           Contains("\nidentical to the bit through step 8\n"));
  const fs::path again = Trained::last_line(half.out);
  const nlohmann::json provenance = nlohmann::json::parse(io::read_file(again / "provenance.json"));
  CHECK(provenance.at("rerun_of") == trained.run.string());
  CHECK(io::read_file(again / "recipe.yaml") == io::read_file(trained.run / "recipe.yaml"));

  const fs::path file = trained.folder.path() / "small.tar.zst";
  REQUIRE(test::run_program({test::program("braise"), "archive", trained.run, "--to", file}).status == 0);
  const fs::path moved = trained.folder.path() / "moved";
  fs::rename(trained.run, moved);
  const test::Finished until = trained.rerun(moved, {"--until", "3"});
  INFO(until.err << until.out);
  CHECK(until.status == 0);
  CHECK_THAT(until.out, Contains("identical to the bit through step "));
  const test::Finished archived = trained.rerun(file);
  INFO(archived.err << archived.out);
  CHECK(archived.status == 0);
  CHECK_THAT(archived.out, Contains("identical to the bit through step 8\n"));
}

TEST_CASE("a run that does not come out again: the first difference, and what else differs") {
  const Trained trained;
  fs::path metrics;
  for (const auto& attempt : fs::directory_iterator(trained.run / "jobs/pretrain/attempts")) {
    metrics = attempt.path() / "metrics.jsonl";
  }
  const std::string lines = io::read_file(metrics);
  const std::size_t fifth = lines.find("\"step\":5,");
  REQUIRE(fifth != std::string::npos);
  const std::size_t bits = lines.rfind("\"loss_bits\":\"", fifth) + 13;
  std::string other = lines;
  other[bits + 15] = other[bits + 15] == '0' ? '1' : '0';
  io::write_file_durably(metrics, other);
  const fs::path provenance = trained.run / "provenance.json";
  io::write_file_durably(provenance,
                         replaced(io::read_file(provenance), "\"build_type\": \"", "\"build_type\": \"Else"));
  const test::Finished finished = trained.rerun(trained.run);
  INFO(finished.err << finished.out);
  CHECK(finished.status == 1);
  CHECK_THAT(finished.out, Contains("pretrain: the losses differ from step 5 on: ") &&
                               Contains("what differs in their provenance:\n  build.build_type: \"Else"));
}

TEST_CASE("compare tells how two runs differ in recipe and provenance, which bits do not depend on") {
  const Trained trained;
  const auto compared = [](const std::string& a, const std::string& b) {
    const test::Finished finished = test::run_program({test::program("braise"), "compare", a, b});
    INFO(finished.err);
    CHECK(finished.status < 2);
    return finished;
  };
  const test::Finished same = compared(trained.run, trained.run / "jobs/pretrain");
  CHECK(same.status == 0);
  CHECK(same.out == "identical through step 8: 8 losses, the checkpoints of 2 steps\n");

  const test::Finished other =
      test::run_program({test::program("braise"), "run", trained.folder.path() / "small.yaml", "--runs", trained.runs,
                         "--set", "stages.pretrain.optimizer.lr=0.02", "--set", "resources.workers_per_node=1"});
  INFO(other.err);
  REQUIRE(other.status == 0);
  const fs::path run = Trained::last_line(other.out);
  const test::Finished different = compared(trained.run, run);
  INFO(different.out);
  CHECK(different.status == 1);
  CHECK_THAT(different.out, Contains("what differs in their recipes:\n") &&
                                Contains("\n  stages.pretrain.optimizer.lr: 0.01 -> 0.02\n") &&
                                Contains("\n  jobs.pretrain.workers: 2 -> 1\n") &&
                                Contains("what differs in their provenance:\n  overrides.set: [] -> [\"stages.") &&
                                Contains("\nthe losses differ from step 2 on: "));

  // A copy of a run that another build, on other processors, would have made to the same bits.
  const fs::path copy = trained.runs / "copy";
  fs::copy(trained.run, copy, fs::copy_options::recursive);
  const fs::path provenance = copy / "provenance.json";
  io::write_file_durably(provenance, replaced(io::read_file(provenance), "\"commit\": \"", "\"commit\": \"0"));
  for (const auto& file : fs::directory_iterator(copy / "journal")) {
    if (!file.path().filename().string().starts_with("pretrain-")) continue;
    io::write_file_durably(file.path(),
                           replaced(io::read_file(file.path()), "\"processors\":[\"", "\"processors\":[\"Other "));
  }
  const test::Finished elsewhere = compared(trained.run, copy / "jobs/pretrain");
  INFO(elsewhere.out);
  CHECK(elsewhere.status == 0);
  CHECK_THAT(elsewhere.out, Contains("the same recipe\nwhat differs in their provenance:\n  build.commit: \"") &&
                                Contains("\n  workers of pretrain.processors: ") && Contains("Other ") &&
                                Contains("\nidentical through step 8: "));
  fs::remove(copy / "resolved.yaml");
  CHECK_THAT(compared(trained.run, copy).out, Contains("cannot be told: ") && Contains("identical through step 8: "));
}

TEST_CASE("what cannot come out again is refused before anything is made") {
  const Trained trained;
  const auto refused = [&](const test::Finished& finished, const std::string& why) {
    INFO(finished.err << finished.out);
    CHECK(finished.status == 2);
    CHECK_THAT(finished.err, Contains(why));
    CHECK(trained.reruns() == 0);
  };
  refused(trained.rerun(trained.run, {"--workers", "3"}), "the same bits cannot come out");
  refused(trained.rerun("absent"), "there is no run 'absent'");
  refused(trained.rerun(trained.folder.write("no.tar.zst", "text")), "cannot read");

  const std::string plan = io::read_file(trained.run / "plan.json");
  io::write_file_durably(trained.run / "plan.json", replaced(plan, "\"kind_version\": ", "\"kind_version\": 9"));
  refused(trained.rerun(trained.run), "gives other outputs than version 9");
  io::write_file_durably(trained.run / "plan.json", plan);

  const std::string text = io::read_file(trained.text), before = io::sha256(text), after = io::sha256(text + "more");
  io::write_file_durably(trained.text, text + "more");
  const test::Finished changed = trained.rerun(trained.run);
  refused(changed, "text.txt has SHA-256 " + after + "; it had " + before);
  fs::remove(trained.text);
  refused(trained.rerun(trained.run), "text.txt is not there");
}

}  // namespace
}  // namespace braise
