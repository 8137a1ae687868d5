// SPDX-License-Identifier: Apache-2.0
// Sweeps as a user has them: points that fail, that are added, and that are held against each other.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

constexpr const char* kHead = R"(recipe: 1
name: small
resources: {host_memory: 128MiB}
stages:
  corpus: {kind: tokenize, input: text.txt, validation: {fraction: 0.2, take: tail}}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 16}
    model: {family: llama, layers: 1, hidden: 16, heads: 2}
    steps: 12
    batch: {global: 4, micro: 4}
    schedule: {kind: constant}
    validation: {every: 4, sequences: 8}
)";

/// A folder with a recipe of a very small training, and its text.
struct Swept {
  test::TemporaryFolder folder;
  fs::path runs;

  Swept() : runs(folder.path() / "runs") {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "line " + std::to_string(i * i % 97) + " of a text\n\n";
    folder.write("text.txt", text);
  }
  test::Finished braise(Words words, const std::string& sweep = "") const {
    words.insert(words.begin(), test::program("braise"));
    if (!sweep.empty()) words.insert(words.begin() + 2, folder.write("small.yaml", kHead + sweep));
    words.insert(words.end(), {"--runs", runs});
    return test::run_program(words);
  }
  json told(const Words& words) const {
    const test::Finished finished = braise(words);
    INFO(finished.err);
    REQUIRE(finished.status == 0);
    return json::parse(finished.out);
  }
  /// The state of each job of the latest run.
  std::map<std::string, std::string> states() const {
    std::map<std::string, std::string> states;
    const json status = told({"status", "latest", "--json"});
    for (const json& job : status.at("jobs")) states[job.at("job")] = job.at("state");
    return states;
  }
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("a point that fails stops no other, and a resume does it again and nothing else") {
  const Swept swept;
  const test::Finished first = swept.braise({"run"},
                                            "sweep: {zip: [{stages.pretrain.optimizer.lr: [1e-3, 1e-3, 1e-2], "
                                            "stages.pretrain.data.sequence: [16, 99999, 16]}]}\n");
  INFO(first.err);
  CHECK(first.status == 1);
  CHECK(has(first.err, "pretrain.2 failed; its logs: braise logs "));
  CHECK(has(first.err, "1 of 4 jobs failed"));
  CHECK(swept.states() == std::map<std::string, std::string>{{"corpus", "completed"},
                                                             {"pretrain.1", "completed"},
                                                             {"pretrain.2", "failed"},
                                                             {"pretrain.3", "completed"}});

  const json best = swept.told({"best", "latest", "--json"});
  CHECK(best.at("metric") == "validation_loss");
  REQUIRE(best.at("points").size() == 3);
  CHECK(best.at("best") == best.at("points")[0].at("job"));
  CHECK(best.at("points")[0].at("best").at("value") < best.at("points")[1].at("best").at("value"));
  CHECK(best.at("points")[0].at("last").at("step") == 12);
  CHECK(fs::exists(best.at("points")[0].at("attempt_dir").get<std::string>() + "/artifacts/checkpoint/manifest.json"));
  CHECK(best.at("points")[2].at("job") == "pretrain.2");
  CHECK(best.at("points")[2].at("last").is_null());
  const json worst = swept.told({"best", "latest", "--max", "--last", "--json"});
  CHECK(worst.at("points")[0].at("job") == best.at("points")[1].at("job"));
  CHECK(worst.at("points")[0].at("best").at("step") == 4);
  const json in_order = swept.told({"runs", "latest", "--metric", "loss", "--json"});
  CHECK(in_order.at("points")[1].at("job") == "pretrain.2");
  CHECK(in_order.at("points")[2].at("parameters") ==
        json{{"stages.pretrain.data.sequence", 16}, {"stages.pretrain.optimizer.lr", 0.01}});
  CHECK(in_order.at("points")[2].at("last").at("step") == 12);
  const test::Finished table = swept.braise({"best", "latest"});
  CHECK(has(table.out, "job         state      data.sequence  optimizer.lr  step  last validation_loss  lowest"));
  CHECK(has(table.out, "\nbest: " + best.at("best").get<std::string>() + ", " + swept.runs.string()));
  const test::Finished unknown = swept.braise({"best", "latest", "--metric", "beauty"});
  CHECK(unknown.status == 1);
  CHECK(has(unknown.err, "no job of small-"));

  const test::Finished resumed = swept.braise({"resume", "latest"});
  CHECK(resumed.status == 1);
  CHECK(has(resumed.err, "pretrain.2: started"));
  CHECK_FALSE(has(resumed.err, "pretrain.1: "));
  CHECK_FALSE(has(resumed.err, "pretrain.3: "));
}

TEST_CASE("a random search grows, and what was there is not done again") {
  const Swept swept;
  const auto sweep = [](int samples) {
    return "sweep: {random: {samples: " + std::to_string(samples) +
           ", parameters: {stages.pretrain.optimizer.lr: {log_uniform: [1e-3, 1e-1]}}}}\n";
  };
  REQUIRE(swept.braise({"run"}, sweep(2)).status == 0);
  const json two = swept.told({"best", "latest", "--json"});
  const test::Finished more = swept.braise({"run"}, sweep(3));
  INFO(more.err);
  REQUIRE(more.status == 0);
  CHECK(swept.states() ==
        std::map<std::string, std::string>{
            {"corpus", "reused"}, {"pretrain.1", "reused"}, {"pretrain.2", "reused"}, {"pretrain.3", "completed"}});
  // What the earlier run told of its points stands beside the new one's.
  const json three = swept.told({"runs", "latest", "--json"});
  REQUIRE(three.at("points").size() == 3);
  for (const json& point : two.at("points")) {
    const auto same = std::find_if(three.at("points").begin(), three.at("points").end(),
                                   [&](const json& other) { return other.at("parameters") == point.at("parameters"); });
    REQUIRE(same != three.at("points").end());
    CHECK(same->at("last") == point.at("last"));
    CHECK(same->at("best") == point.at("best"));
  }
  CHECK_FALSE(three.at("points")[2].at("last").is_null());
}

/// By job, what a table of points says of it.
std::map<std::string, json> by_job(const json& table) {
  std::map<std::string, json> jobs;
  for (const json& point : table.at("points")) jobs[point.at("job")] = point;
  return jobs;
}

TEST_CASE("a halving goes on with the best points, to the bits of trainings that were never cut") {
  const Swept swept;
  const auto sweep = [](const std::string& lr, const std::string& sequence) {
    return "sweep:\n  zip: [{stages.pretrain.optimizer.lr: [" + lr + "], stages.pretrain.data.sequence: [" + sequence +
           "]}]\n  halving: {stage: pretrain, rungs: [4], factor: 2}\n";
  };
  const test::Finished first = swept.braise({"run"}, sweep("1e-4, 1e-2, 1e-2, 3e-2", "16, 99999, 16, 16"));
  INFO(first.err);
  CHECK(first.status == 1);  // a point failed, and the halving went on without it
  CHECK(has(first.err, "1 of 9 jobs failed"));
  CHECK(swept.states() == std::map<std::string, std::string>{{"corpus", "completed"},
                                                             {"pretrain.1", "completed"},
                                                             {"pretrain.2", "failed"},
                                                             {"pretrain.3", "completed"},
                                                             {"pretrain.4", "completed"},
                                                             {"pretrain.select-1", "completed"},
                                                             {"pretrain.rung-2.1", "completed"},
                                                             {"pretrain.rung-2.2", "completed"},
                                                             {"pretrain.select-2", "completed"}});
  const json table = swept.told({"best", "latest", "--json"});
  std::map<std::string, json> halved = by_job(table);
  CHECK(halved.at("pretrain.4").at("last").at("step") == 4);
  CHECK(halved.at("pretrain.rung-2.1").at("parameters").at("stages.pretrain.optimizer.lr") == 0.03);
  CHECK(halved.at("pretrain.rung-2.2").at("parameters").at("stages.pretrain.optimizer.lr") == 0.01);
  CHECK(table.at("best") == "pretrain.rung-2.1");

  // The best point trained in one go.
  REQUIRE(swept.braise({"run"}, "sweep: {stages.pretrain.optimizer.lr: [3e-2]}\n").status == 0);
  const json whole = swept.told({"best", "latest", "--json"}).at("points").at(0);
  CHECK(whole.at("last") == halved.at("pretrain.rung-2.1").at("last"));

  // A further point, and none that does not train: what is the same is not done again.
  const test::Finished more = swept.braise({"run"}, sweep("1e-4, 2e-2, 1e-2, 3e-2", "16, 16, 16, 16"));
  INFO(more.err);
  CHECK(more.status == 0);
  std::map<std::string, std::string> states = swept.states();
  CHECK(states.at("pretrain.1") == "reused");
  CHECK(states.at("pretrain.2") == "completed");
  CHECK(states.at("pretrain.4") == "reused");
  CHECK(states.at("pretrain.select-1") == "completed");
  CHECK(states.at("pretrain.rung-2.1") == "reused");
  CHECK(states.at("pretrain.rung-2.2") == "completed");
  halved = by_job(swept.told({"runs", "latest", "--json"}));
  CHECK(halved.at("pretrain.rung-2.1").at("last") == whole.at("last"));
  CHECK(halved.at("pretrain.rung-2.2").at("parameters").at("stages.pretrain.optimizer.lr") == 0.02);
}

}  // namespace
}  // namespace braise
