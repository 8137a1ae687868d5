// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {

using Catch::Contains;

test::Finished plan(std::vector<std::string> more) {
  std::vector<std::string> command{test::program("braise"), "plan",
                                   std::string(BRAISE_SOURCE_DIR) + "/examples/larger-than-memory/recipe.yaml",
                                   "--fit"};
  command.insert(command.end(), more.begin(), more.end());
  return test::run_program(command);
}

TEST_CASE("plan --fit tells the layout that fits, and a plan that cannot fit is refused with it") {
  const test::Finished fits = plan({});
  INFO(fits.err);
  CHECK(fits.status == 0);
  CHECK_THAT(fits.out, Contains("pretrain: 2 x 40 MiB of device memory: fits as it stands"));

  const test::Finished less = plan({"--set", "resources.device_memory=30MiB"});
  CHECK(less.status == 0);
  CHECK_THAT(less.out, Contains("fits with these changes") && Contains("offload.gradients: host"));

  const test::Finished json = plan({"--json", "--set", "resources.device_memory=30MiB"});
  const nlohmann::json fit = nlohmann::json::parse(json.out).at("jobs").at(1).at("fit");
  CHECK(fit.at("fits") == true);
  CHECK(fit.at("device_bytes") <= 30 << 20);
  CHECK(fit.at("changes").at(0).at("key") == "offload.gradients");

  const test::Finished refused =
      plan({"--set", "stages.pretrain.parallel.zero=0", "--set", "stages.pretrain.offload={}"});
  CHECK(refused.status == 2);
  CHECK_THAT(refused.err,
             Contains("stages.pretrain: needs more of each worker's device memory") && Contains("this would fit: "));
}

TEST_CASE(
    "a model of given weights is planned for as one that the recipe describes, and refused before anything runs") {
  const test::TemporaryFolder folder;
  folder.write("text.txt", "a text");
  const auto config = nlohmann::json::parse(
      io::read_file(std::filesystem::path(BRAISE_SOURCE_DIR) / "tests/golden/models/llama2/config.json"));
  folder.write("tiny/config.json", config.dump());
  const auto recipe = [&](const std::string& model, const std::string& more = "") {
    return folder.write("recipe.yaml",
                        "recipe: 1\nname: given\nresources: {workers_per_node: 2}\nstages:\n"
                        "  corpus: {kind: tokenize, input: text.txt}\n"
                        "  tune:\n    kind: train\n"
                        "    data: {tokens: \"${stages.corpus.tokens}\", sequence: 32}\n"
                        "    model: " +
                            model + "\n    steps: 10\n    batch: {global: 8, micro: 2}\n" + more);
  };
  const auto plan_of = [&](const std::vector<std::string>& more = {}) {
    std::vector<std::string> command{test::program("braise"), "plan", (folder.path() / "recipe.yaml").string()};
    command.insert(command.end(), more.begin(), more.end());
    return test::run_program(command);
  };
  const auto memory = [&](const std::string& model) {
    recipe(model);
    const test::Finished planned = plan_of({"--json"});
    INFO(planned.err);
    REQUIRE(planned.status == 0);
    return nlohmann::json::parse(planned.out).at("jobs").at(1).at("estimate");
  };
  const nlohmann::json given = memory("{from: tiny}");
  CHECK(given.at("memory_bytes_per_rank").at("parameters") > 0);
  CHECK(given == memory("{layers: 2, hidden: 16, heads: 4, kv_heads: 2, intermediate: 28, vocabulary: 41}"));

  recipe("{from: tiny}", "    parallel: {pipeline: 2}\n    freeze: [\"x.*\"]\n");
  const test::Finished pattern = plan_of();
  CHECK(pattern.status == 2);
  CHECK_THAT(pattern.err, Contains("the pattern \"x.*\" fits no parameter"));

  recipe("{from: tiny}");
  const test::Finished budget = plan_of(
      {"--set", "resources.device_memory=3500KiB", "--set", "stages.tune.batch={global: 512, micro: 256}", "--fit"});
  INFO(budget.err);
  CHECK(budget.status == 0);
  CHECK_THAT(budget.out, Contains("tune: 2 x 3.4 MiB of device memory: fits with these changes"));

  nlohmann::json wrong = config;
  wrong["num_key_value_heads"] = 3;
  wrong["hidden_act"] = "relu";
  folder.write("tiny/config.json", wrong.dump());
  recipe("{from: tiny}", "  story: {kind: infer, model: tiny, prompts: [a], tokenizer: {kind: bytes}}\n");
  const test::Finished unreadable = plan_of();
  CHECK(unreadable.status == 2);
  for (const std::string place : {"stages.tune.model.from: ", "stages.story.model: "}) {
    const std::string file = place + (folder.path() / "tiny/config.json").string();
    CHECK_THAT(unreadable.err, Contains(file + ": num_key_value_heads: is 3") && Contains(file + ": hidden_act: "));
  }

  folder.write("learned/config.json",
               io::read_file(std::filesystem::path(BRAISE_SOURCE_DIR) / "tests/golden/models/gpt2/config.json"));
  recipe("{from: learned}");
  const test::Finished longer = plan_of({"--set", "stages.tune.data.sequence=4096"});
  CHECK(longer.status == 2);
  CHECK_THAT(longer.err, Contains("stages.tune.data.sequence: is 4096; must be at most "));

  folder.write("nothing/readme.txt", "no model");
  recipe("{from: nothing}");
  CHECK_THAT(plan_of().err, Contains("stages.tune.model.from: ") && Contains("nothing: is no model: "));
}

TEST_CASE("a model that another stage will leave is planned for before it is there") {
  const test::TemporaryFolder folder;
  folder.write("text.txt", "a text");
  const auto plan_of = [&](const std::string& more, const std::vector<std::string>& options = {}) {
    const std::string train =
        "    data: {tokens: \"${stages.corpus.tokens}\", sequence: 32}\n    steps: 10\n    batch: {global: 8, micro: "
        "2}\n";
    folder.write("recipe.yaml",
                 "recipe: 1\nname: chain\nresources: {workers_per_node: 2}\nstages:\n"
                 "  story: {kind: infer, model: \"${stages.align.checkpoint}\", prompts: [a]}\n"
                 "  align:\n    kind: train\n    model: {from: \"${stages.tune.best}\"}\n" +
                     train + "  tune:\n    kind: train\n    model: {from: \"${stages.pretrain.checkpoint}\"}\n" +
                     train + "  pretrain:\n    kind: train\n    model: {layers: 2, hidden: 16, heads: 4}\n" + train +
                     "  corpus: {kind: tokenize, input: text.txt}\n" + more);
    std::vector<std::string> command{test::program("braise"), "plan", (folder.path() / "recipe.yaml").string()};
    command.insert(command.end(), options.begin(), options.end());
    return test::run_program(command);
  };
  const test::Finished planned = plan_of("", {"--json"});
  INFO(planned.err);
  REQUIRE(planned.status == 0);
  std::map<std::string, nlohmann::json> memory;
  const nlohmann::json plan = nlohmann::json::parse(planned.out);
  for (const nlohmann::json& job : plan.at("jobs")) {
    memory[job.at("spec").at("name")] = job.at("estimate").at("memory_bytes_per_rank");
  }
  CHECK(memory.at("tune") == memory.at("pretrain"));
  CHECK(memory.at("align") == memory.at("pretrain"));
  CHECK(memory.at("story").at("kv") > 0);

  const test::Finished parts =
      plan_of("", {"--set", "stages.align.parallel.pipeline=3", "--set", "stages.align.resources.workers_per_node=3"});
  CHECK(parts.status == 2);
  CHECK_THAT(parts.err, Contains("stages.align.parallel.pipeline: "));

  CHECK_THAT(plan_of("", {"--fit"}).out, Contains("align: 2 x all there is of device memory: fits as it stands"));
  const test::Finished halved =
      plan_of("sweep:\n  stages.pretrain.model.layers: [1, 2]\n  halving: {stage: pretrain, rungs: [5], factor: 2}\n",
              {"--fit", "--set", "stages.corpus.validation.fraction=0.1"});
  INFO(halved.err);
  for (const std::string job : {"tune", "align"}) {
    CHECK_THAT(halved.out, Contains(job + ": its model is not known before other jobs have run"));
  }

  const test::Finished cycle = plan_of("", {"--set", "stages.pretrain.model={from: \"${stages.align.checkpoint}\"}"});
  CHECK(cycle.status == 2);
  CHECK_THAT(cycle.err, Contains("stages wait for each other"));
}

TEST_CASE("the plan of 7.5 billion parameters is the table of the ZeRO paper") {
  // Rajbhandari et al. 2020, figure 1 and table 1: GB of a rank's parameters, gradients, master weights and optimizer.
  struct Row {
    int ranks;
    std::vector<double> gigabytes;  // by stage
  };
  const std::vector<Row> rows{{4, {120, 52.5, 41.3, 30}},
                              {16, {120, 35.6, 21.6, 7.5}},
                              {64, {120, 31.4, 16.6, 1.88}},
                              {1024, {120, 30.1, 15.1, 0.117}}};
  const test::TemporaryFolder folder;
  folder.write("text.txt", "a text");
  for (const Row& row : rows) {
    const std::string ranks = std::to_string(row.ranks);
    std::string recipe = "recipe: 1\nname: table\nstages:\n  corpus: {kind: tokenize, input: text.txt}\n";
    for (int zero = 0; zero < 4; ++zero) {
      recipe += "  zero" + std::to_string(zero) +
                ":\n"
                "    kind: train\n"
                "    resources: {workers_per_node: " +
                ranks +
                "}\n"
                "    data: {tokens: '${stages.corpus.tokens}', sequence: 1024}\n"
                "    model: {family: llama, layers: 36, hidden: 4096, heads: 32, kv_heads: 32, intermediate: 10912,"
                " vocabulary: 32000}\n"
                "    steps: 1\n"
                "    batch: {global: " +
                ranks + ", micro: 1}\n    numerics: {lanes: " + ranks +
                "}\n"
                "    precision: {gradients: bf16}\n"
                "    parallel: {zero: " +
                std::to_string(zero) + "}\n";
    }
    const test::Finished planned =
        test::run_program({test::program("braise"), "plan", folder.write("table.yaml", recipe), "--json"});
    INFO(row.ranks << " ranks: " << planned.err);
    REQUIRE(planned.status == 0);
    int found = 0;
    const nlohmann::json jobs = nlohmann::json::parse(planned.out).at("jobs");
    for (const auto& job : jobs) {
      const std::string name = job.at("spec").at("stage");
      if (!name.starts_with("zero")) continue;
      const nlohmann::json& memory = job.at("estimate").at("memory_bytes_per_rank");
      double bytes = 0;
      for (const char* const state : {"parameters", "gradients", "master", "optimizer"}) {
        bytes += memory.at(state).get<double>();
      }
      INFO(name);
      CHECK(bytes / 1e9 == Approx(row.gigabytes[static_cast<std::size_t>(name.back() - '0')]).epsilon(0.015));
      ++found;
    }
    CHECK(found == 4);
  }
}

}  // namespace
}  // namespace braise
