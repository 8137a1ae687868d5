// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "runner/plan/bind.h"
#include "runner/plan/inputs.h"
#include "runner/plan/make.h"
#include "runner/plan/settle.h"
#include "stages/shared/io/digest.h"
#include "tests/support/support.h"

namespace braise::plan {
namespace {

/// Plans a recipe text in a folder of its own; the faults as text where there are any.
struct Trial {
  test::TemporaryFolder folder;
  stages::Faults faults;
  std::optional<Made> made;

  explicit Trial(const std::string& recipe) {
    folder.write("a.txt", "first\n");
    folder.write("b.txt", "second\n");
    folder.write("more/c.txt", "third\n");
    const auto document = recipe::load(folder.write("recipe.yaml", recipe), {}, faults);
    if (document) made = make_plan(*document, file_system_inputs(), faults);
  }
  std::string fault_text() const { return stages::to_string(faults); }
  const Job& job(const std::string& name) const {
    const Job* found = made->plan.find(name);
    INFO(name);
    REQUIRE(found != nullptr);
    return *found;
  }
};

const char* const kTwoStages = R"(
recipe: 1
name: two
seed: 5
resources: {workers_per_node: 2}
stages:
  selftest: {kind: check, after: [corpus]}
  corpus: {kind: tokenize, input: "*.txt", resources: {threads: 3}}
)";

TEST_CASE("a plan is a DAG in an order that can be run") {
  const Trial trial(kTwoStages);
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  const Plan& plan = trial.made->plan;
  REQUIRE(plan.jobs.size() == 2);
  CHECK(plan.jobs[0].spec.job == "corpus");
  CHECK(plan.jobs[1].spec.job == "selftest");
  CHECK(plan.jobs[1].needs == std::vector<std::string>{"corpus"});
  CHECK(plan.jobs[0].spec.resources.threads == 3);
  CHECK(plan.jobs[0].spec.resources.ranks() == 2);
  CHECK(plan.jobs[0].spec.seed == 5);
  REQUIRE(plan.jobs[0].spec.inputs.size() == 2);
  CHECK(plan.jobs[0].spec.inputs[0].path == (trial.folder.path() / "a.txt").string());
  CHECK(plan.jobs[0].spec.inputs[0].sha256 == io::sha256("first\n"));
  CHECK(plan.jobs[0].outputs.at("tokens") == "artifacts/tokens.h5");
}

TEST_CASE("a plan survives being written and read") {
  const Trial trial(kTwoStages);
  REQUIRE(trial.made);
  const nlohmann::json json = trial.made->plan.to_json();
  CHECK(Plan::from_json(json).to_json() == json);
  CHECK_THROWS_AS(Plan::from_json({{"plan", 99}}), core::Error);
  CHECK_THROWS_AS(Plan::from_json(nlohmann::json::array()), core::Error);
  // A stranger's names lead out of no folder.
  for (const char* const name : {"", ".", "..", "../a", "a/b", "/a"}) {
    for (const auto& place : {"/recipe"_json_pointer, "/jobs/0/spec/name"_json_pointer}) {
      nlohmann::json hostile = json;
      hostile[place] = name;
      CHECK_THROWS_WITH(Plan::from_json(hostile), Catch::Contains("is no name of a recipe or a job"));
    }
  }
}

TEST_CASE("a sweep makes a job for each configuration and shares what does not change") {
  const Trial trial(R"(
recipe: 1
name: swept
stages:
  plain: {kind: tokenize, input: a.txt}
  swept: {kind: tokenize, input: b.txt, after: [plain]}
sweep:
  stages.swept.validation.fraction: [0.1, 0.2]
  zip: [{stages.swept.documents: [line, file], stages.swept.shard_size: [8KiB, 16KiB]}]
)");
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  REQUIRE(trial.made->plan.jobs.size() == 5);
  CHECK(trial.made->points == 4);
  CHECK(trial.job("plain").parameters.empty());
  CHECK(trial.job("swept.1").needs == std::vector<std::string>{"plain"});
  CHECK(trial.job("swept.1").parameters == nlohmann::json{{"stages.swept.validation.fraction", 0.1},
                                                          {"stages.swept.documents", "line"},
                                                          {"stages.swept.shard_size", "8KiB"}});
  CHECK(trial.job("swept.4").spec.config["documents"] == "file");
  CHECK(trial.job("swept.4").spec.config["shard_size"] == 16384);
}

TEST_CASE("a job that several points share keeps only the parameters they share") {
  const Trial trial(R"(
recipe: 1
name: swept
vars: {f: 0, s: 4KiB}
stages:
  one: {kind: tokenize, input: a.txt, validation: {fraction: "${vars.f}"}}
  two: {kind: tokenize, input: a.txt, validation: {fraction: "${vars.f}"}, shard_size: "${vars.s}"}
sweep: {vars.f: [0.1, 0.2], vars.s: [4KiB, 8KiB, 16KiB]}
)");
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  CHECK(trial.made->plan.jobs.size() == 2 + 6);
  CHECK(trial.job("one.2").parameters == nlohmann::json{{"vars.f", 0.2}});
  CHECK(trial.job("two.6").parameters == nlohmann::json{{"vars.f", 0.2}, {"vars.s", "16KiB"}});
}

TEST_CASE("a swept path of another stage is a parameter only of what builds on it") {
  const Trial trial(R"(
recipe: 1
name: swept
stages:
  base: {kind: tokenize, input: a.txt}
  above: {kind: tokenize, input: b.txt, after: [base]}
  aside: {kind: tokenize, input: b.txt}
sweep: {zip: [{stages.base.documents: [file, line], seed: [1, 2]}]}
)");
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  CHECK(trial.job("base.1").parameters == nlohmann::json{{"stages.base.documents", "file"}, {"seed", 1}});
  CHECK(trial.job("above.2").parameters == nlohmann::json{{"stages.base.documents", "line"}, {"seed", 2}});
  CHECK(trial.job("aside.2").parameters == nlohmann::json{{"seed", 2}});
}

/// Ten points of a training, halved; `more` stages and keys of the sweep.
std::string halved(const std::string& more = "", const std::string& rungs = "[2, 5]", const std::string& sweep = "") {
  return R"(
recipe: 1
name: halved
stages:
  pretrain:
    kind: train
    data: {tokens: a.txt, sequence: 8}
    model: {hidden: 8, layers: 1, heads: 1}
    batch: {global: 1, micro: 1}
    steps: 9
)" + more +
         "sweep:\n  random: {samples: 10, parameters: {stages.pretrain.optimizer.lr: {log_uniform: [1e-4, 1e-1]}}}\n" +
         "  halving: {stage: pretrain, rungs: " + rungs + "}\n" + sweep;
}

TEST_CASE("a halving is planned as rungs with selections between them") {
  const Trial trial(halved("  story: {kind: infer, model: \"${stages.pretrain.checkpoint}\", prompts: [a]}\n"));
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  const Plan& plan = trial.made->plan;
  std::string order;
  for (const Job& job : plan.jobs) order += job.spec.job + " ";
  CHECK(order ==
        "pretrain.01 pretrain.02 pretrain.03 pretrain.04 pretrain.05 pretrain.06 pretrain.07 pretrain.08 pretrain.09 "
        "pretrain.10 pretrain.select-1 pretrain.rung-2.1 pretrain.rung-2.2 pretrain.rung-2.3 pretrain.select-2 "
        "pretrain.rung-3 pretrain.select-3 story ");
  CHECK(trial.job("pretrain.04").spec.config["until"] == 2);
  const Job& first = trial.job("pretrain.select-1");
  CHECK(first.needs.empty());
  CHECK(first.candidates.size() == 10);
  CHECK(first.spec.config["keep"] == 3);
  CHECK(first.spec.kind == "select");
  const Job& second = trial.job("pretrain.rung-2.2");
  CHECK(second.needs == std::vector<std::string>{"pretrain.select-1"});
  CHECK(plan.awaited(second) == first.candidates);
  CHECK(second.choice->place == 1);
  CHECK(second.choice->until == 5);
  CHECK(second.spec.config["until"] == 5);
  CHECK(trial.job("pretrain.rung-3").choice->until == 0);
  const Job& story = trial.job("story");
  CHECK(story.needs == std::vector<std::string>{"pretrain.select-3"});
  CHECK(story.candidates == std::vector<std::string>{"pretrain.rung-3"});
  CHECK(story.links.at(0).place == 0);
  const nlohmann::json json = plan.to_json();
  CHECK(Plan::from_json(json).to_json() == json);
}

TEST_CASE("what is late is settled by what ended well and by what was chosen") {
  const Trial trial(halved("  story: {kind: infer, model: \"${stages.pretrain.checkpoint}\", prompts: [a]}\n"));
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  std::set<std::string> failed = {"pretrain.02"};
  std::map<std::string, std::vector<std::string>> chosen = {{"pretrain.select-1", {"pretrain.07", "pretrain.03"}},
                                                            {"pretrain.select-2", {"pretrain.rung-2.2"}},
                                                            {"pretrain.select-3", {"pretrain.rung-3"}}};
  const Outcomes outcomes{[&](const std::string& job) { return !failed.contains(job); },
                          [&](const std::string& select) { return chosen.at(select); }};
  std::string why;
  const auto settled = [&](const std::string& name) {
    return settle(trial.made->plan, trial.job(name), outcomes, why);
  };

  const std::optional<Job> select = settled("pretrain.select-1");
  REQUIRE(select);
  CHECK(select->links.size() == 9);
  CHECK(select->spec.config["candidates"][1] == nlohmann::json{{"name", "pretrain.02"}, {"checkpoint", ""}});
  const std::optional<Job> second = settled("pretrain.rung-2.2");
  REQUIRE(second);
  CHECK(second->parameters == trial.job("pretrain.03").parameters);
  nlohmann::json config = trial.job("pretrain.03").spec.config;
  config["until"] = 5;
  config["continue_from"] = "${stages.pretrain.checkpoint}";
  CHECK(second->spec.config == config);
  CHECK(second->links.back().job == "pretrain.03");
  const std::optional<Job> third = settled("pretrain.rung-3");
  REQUIRE(third);
  CHECK(third->parameters == second->parameters);
  CHECK(third->spec.config["until"] == 0);
  CHECK(third->links.size() == 1);
  CHECK(third->links[0].job == "pretrain.rung-2.2");
  CHECK(settled("story")->links.at(0).job == "pretrain.rung-3");

  CHECK_FALSE(settled("pretrain.rung-2.3"));
  CHECK(why == "`pretrain.select-1` had no more than 2 to select");
  failed.insert("pretrain.rung-2.2");
  CHECK_FALSE(settled("pretrain.rung-3"));
  CHECK(why == "`pretrain.rung-2.2`, which `pretrain.select-2` selected, is not completed");
  for (const Job& job : trial.made->plan.jobs) failed.insert(job.spec.job);
  CHECK_FALSE(settled("pretrain.select-1"));
  CHECK(why == "none of the 10 jobs to select from is completed");
}

TEST_CASE("a halving that cannot be planned is a fault") {
  const auto fault = [](const std::string& recipe) {
    const Trial trial(recipe);
    CHECK_FALSE(trial.made);
    return trial.fault_text();
  };
  using Catch::Contains;
  CHECK_THAT(fault(halved("", "[2, 9]")), Contains("has a rung at step 9 of trainings of 9 steps"));
  CHECK_THAT(fault(halved("", "[2]", "  resources.threads: [1, 2]\n")), Contains("ask for different resources"));
  CHECK_THAT(fault(halved("", "[2]", "  zip: [{stages.pretrain.steps: [0], stages.pretrain.tokens: [999]}]\n")),
             Contains("whose length is not given in steps"));
  CHECK_THAT(fault(halved("", "[2]", "  stages.pretrain.until: [1]\n")), Contains("is of a stage with `until`"));
  std::string unmeasured = halved("  corpus: {kind: tokenize, input: a.txt}\n", "[2]");
  unmeasured.replace(unmeasured.find("tokens: a.txt"), 13, "tokens: \"${stages.corpus.tokens}\"");
  CHECK_THAT(fault(unmeasured), Contains("stage `corpus` keeps no text for validation"));
  std::string alone = halved();
  alone.replace(alone.find("samples: 10"), 11, "samples: 1");
  CHECK_THAT(fault(alone), Contains("has one point of stage `pretrain`"));
  const std::string story = "  story: {kind: infer, model: \"${stages.pretrain.checkpoint}\", prompts: [a]}\n";
  CHECK_THAT(fault(halved(story, "[2]", "  seed: [1, 2]\n")),
             Contains("stages.story: builds on the halved stage `pretrain`, and is swept itself"));
}

TEST_CASE("missing and odd inputs are faults at their place") {
  const Trial trial(R"(
recipe: 1
name: bad
stages:
  gone: {kind: tokenize, input: gone.txt}
  none: {kind: tokenize, input: "gone/*.txt"}
  folder: {kind: tokenize, input: more}
  pinned: {kind: tokenize, input: [{path: a.txt, sha256: "0000000000000000000000000000000000000000000000000000000000000000"}]}
)");
  CHECK_FALSE(trial.made);
  REQUIRE(trial.faults.size() == 4);
  const std::string text = trial.fault_text();
  INFO(text);
  CHECK(text.find(":5:33: stages.gone.input: there is no file `") != std::string::npos);
  CHECK(text.find(":6:33: stages.none.input: no file matches `") != std::string::npos);
  CHECK(text.find(":7:35: stages.folder.input: `") != std::string::npos);
  CHECK(text.find("is a folder; name files in it") != std::string::npos);
  CHECK(text.find("stages.pinned.input.0") != std::string::npos);
  CHECK(text.find("the recipe pins 0000") != std::string::npos);
}

TEST_CASE("a pin is for one file") {
  const std::string head = "recipe: 1\nname: x\nstages:\n  s: {kind: tokenize, input: [{path: ";
  const std::string pin = ", sha256: \"" + io::sha256("first\n") + "\"}]}\n";
  CHECK(Trial(head + "\"a*.txt\"" + pin).made);
  const Trial several(head + "\"*.txt\"" + pin);
  CHECK_FALSE(several.made);
  CHECK(several.fault_text().find("matches 2 files, but one `sha256` is given") != std::string::npos);
  CHECK(Trial(head + "\"*.txt\"}]}\n").made);
}

TEST_CASE("inputs are found in folders whose names look like globs") {
  const test::TemporaryFolder folder;
  folder.write("od[d]*?/a.txt", "text");
  stages::Faults faults;
  const auto document = recipe::load(
      folder.write("od[d]*?/recipe.yaml", "recipe: 1\nname: x\nstages:\n  s: {kind: tokenize, input: a.txt}\n"), {},
      faults);
  REQUIRE(document);
  const auto made = make_plan(*document, file_system_inputs(), faults);
  INFO(stages::to_string(faults));
  REQUIRE(made);
  CHECK(made->plan.jobs[0].spec.inputs.at(0).path == (folder.path() / "od[d]*?/a.txt").string());
}

TEST_CASE("a long chain of stages is ordered") {
  std::string text = "recipe: 1\nname: x\nstages:\n";
  for (int i = 0; i < 3000; ++i) {
    text += "  s" + std::to_string(i) + ": {kind: check";
    if (i < 2999) text += ", after: [s" + std::to_string(i + 1) + "]";
    text += "}\n";
  }
  const Trial trial(text);
  INFO(trial.fault_text());
  REQUIRE(trial.made);
  CHECK(trial.made->plan.jobs.front().spec.job == "s2999");
  CHECK(trial.made->plan.jobs.back().spec.job == "s0");
}

TEST_CASE("faults at several points of a sweep are all found") {
  const Trial trial(R"(
recipe: 1
name: bad
stages:
  corpus: {kind: tokenize, input: a.txt}
sweep:
  stages.corpus.validation.fraction: [0.1, 2, 0.3, -1]
)");
  CHECK_FALSE(trial.made);
  CHECK(trial.faults.size() == 2);
}

TEST_CASE("globs") {
  const test::TemporaryFolder folder;
  for (const char* name : {"a.txt", "b.txt", ".hidden.txt", "c.md", "x/d.txt", "x/y/e.txt", "x/[odd].txt"}) {
    folder.write(name, name);
  }
  const auto names = [&](const std::string& pattern) {
    std::string text;
    for (const auto& path : expand_glob((folder.path() / pattern).string())) {
      text += std::filesystem::relative(path, folder.path()).string() + " ";
    }
    return text;
  };
  CHECK(names("*.txt") == "a.txt b.txt ");
  CHECK(names("[b-c].*") == "b.txt c.md ");
  CHECK(names("?.txt") == "a.txt b.txt ");
  CHECK(names("**/*.txt") == "a.txt b.txt x/[odd].txt x/d.txt x/y/e.txt ");
  CHECK(names("*/y/*") == "x/y/e.txt ");
  CHECK(names("*") == "a.txt b.txt c.md ");
  CHECK(names(".*") == ".hidden.txt ");
  CHECK(names("nothing*") == "");
}

TEST_CASE("the fingerprint says what the result depends on, and nothing else") {
  const auto fingerprint = [](const std::string& stage, const std::string& resources = "{}") {
    const Trial trial("recipe: 1\nname: x\nresources: " + resources + "\nstages:\n  s: " + stage + "\n");
    INFO(trial.fault_text());
    REQUIRE(trial.made);
    return bind(trial.made->plan.jobs.at(0), [](const std::string&) -> const Completed& { throw core::Error("none"); })
        .fingerprint;
  };
  const std::string base = fingerprint("{kind: tokenize, input: a.txt}");
  CHECK(base.size() == 64);
  CHECK(fingerprint("{kind: tokenize, input: a.txt}", "{workers_per_node: 4, threads: 2, retries: 3}") == base);
  CHECK(fingerprint("{kind: tokenize, input: ./a.txt}") == base);
  CHECK(fingerprint("{kind: tokenize, input: b.txt}") != base);
  CHECK(fingerprint("{kind: tokenize, input: a.txt, seed: 1}") != base);
  CHECK(fingerprint("{kind: tokenize, input: a.txt, documents: line}") != base);
}

TEST_CASE("binding puts in what other jobs left") {
  Job job;
  job.spec.config = {{"model", "${stages.train.checkpoint}"}, {"list", {"x", "${stages.train.checkpoint}.bak"}}};
  job.links = {{"/model", "${stages.train.checkpoint}", "train.2", "checkpoint"},
               {"/list/1", "${stages.train.checkpoint}", "train.2", "checkpoint"}};
  Completed completed;
  completed.attempt_dir = "jobs/train.2/attempts/1-abc123";
  completed.outputs["checkpoint"].files = {{"checkpoints/last.h5", 3, std::string(64, 'a')}};
  const auto source = [&](const std::string& name) -> const Completed& {
    CHECK(name == "train.2");
    return completed;
  };
  const stages::JobSpec bound = bind(job, source);
  CHECK(bound.config["model"] == "${run.dir}/jobs/train.2/attempts/1-abc123/checkpoints/last.h5");
  CHECK(bound.config["list"][1] == "${run.dir}/jobs/train.2/attempts/1-abc123/checkpoints/last.h5.bak");
  // Where the output lies does not matter, what it holds does.
  completed.attempt_dir = "jobs/train.2/attempts/2-def456";
  CHECK(bind(job, source).fingerprint == bound.fingerprint);
  completed.outputs["checkpoint"].files[0].sha256[0] = 'b';
  CHECK(bind(job, source).fingerprint != bound.fingerprint);
}

}  // namespace
}  // namespace braise::plan
