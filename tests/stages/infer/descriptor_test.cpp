// SPDX-License-Identifier: Apache-2.0
#include "stages/api/descriptor.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "stages/shared/model/config.h"
#include "tests/stages/infer/config.h"
#include "tests/stages/shared/model/small_models.h"
#include "tests/support/support.h"

namespace braise::infer {
const stages::StageDescriptor& descriptor();

namespace {

using nlohmann::json;
using test::infer_config;

TEST_CASE("the files of the model and of prompts are inputs, unless the run makes them") {
  const auto pointers = [](const json& changes) {
    std::vector<std::string> result;
    for (const stages::InputPattern& pattern : descriptor().inputs(infer_config(changes))) {
      result.push_back(pattern.pointer + " " + pattern.pattern);
    }
    return result;
  };
  using Lines = std::vector<std::string>;
  CHECK(pointers({{"model", "/m"}}) == Lines{"/model /m/*"});
  CHECK(pointers({{"model", "${stages.pretrain.checkpoint}"}}) == Lines{});
  CHECK(pointers({{"model", "${run.dir}/m"}}) == Lines{});
  CHECK(pointers({{"model", "${stages.a.checkpoint}"},
                  {"prompts", {"x", {{"path", "/a.txt"}}, {{"path", "${stages.b.text}"}}}}}) ==
        Lines{"/prompts/1/path /a.txt"});
}

TEST_CASE("what the schema cannot say is checked") {
  const auto faults = [](const json& changes) {
    std::string text;
    const stages::Resources resources;
    const stages::KnownModels models;
    descriptor().check({infer_config(changes), resources, models,
                        [&](std::string_view pointer, const std::string& problem, const std::string& remedy) {
                          CHECK_FALSE(remedy.empty());
                          text += std::string(pointer) + " " + problem + "\n";
                        }});
    return text;
  };
  CHECK(faults(json::object()) == "");
  CHECK(faults({{"samples", 3}}) == "");
  CHECK(faults({{"samples", 3}, {"sampling", {{"temperature", 0}}}}) ==
        "/samples is 3, but at temperature 0 all are the same\n");
  CHECK(faults({{"sampling", {{"temperature", 0}}}}) == "");
  CHECK(faults({{"prompts", {"x", {{"path", "/a/*.txt"}}}}}) == "/prompts/1/path is a pattern of names\n");
  CHECK(faults({{"prompts", {"x", {{"path", "/a[?]b.txt"}}}}}) == "");
  CHECK(faults({{"model", "/models/*"}}) == "/model is a pattern of names\n");
  CHECK(faults({{"prompts", {{{"path", "/a.txt"}}, {{"path", "${stages.a.text}"}}, "what?"}}}) == "");

  const test::TemporaryFolder folder;
  folder.write("config.json", model::to_hugging_face(test::small_llama()).dump());
  const std::string model = folder.path();
  const std::string vocabulary = std::to_string(test::small_llama().vocabulary);
  CHECK(faults({{"model", model}, {"tokenizer", {{"kind", "model"}}}}) ==
        "/tokenizer is left to the model, and " + model + " does not say it\n");
  CHECK(faults({{"model", model}, {"tokenizer", {{"kind", "bytes"}}}}) ==
        "/tokenizer has 257 tokens, and the model " + model + " has " + vocabulary + "\n");
  model::Config of_bytes = test::small_llama();
  of_bytes.vocabulary = 256;
  folder.write("config.json", model::to_hugging_face(of_bytes).dump());
  CHECK(faults({{"model", model}, {"tokenizer", {{"kind", "bytes"}, {"end_of_document", false}}}}) == "");
}

TEST_CASE("memory is told where the model is known, and completions are counted where the prompts are") {
  const test::TemporaryFolder folder;
  const json config = model::to_hugging_face(test::small_llama());
  folder.write("config.json", config.dump());
  stages::Resources resources;
  resources.nodes = resources.workers_per_node = resources.threads = 1;
  const std::string of_stage = "${stages.pretrain.checkpoint}";
  const auto estimate = [&](json changes, const std::string& model, const stages::KnownModels& models = {}) {
    changes["model"] = model;
    return descriptor().estimate(infer_config(changes), resources, {}, models);
  };
  const json five = {{"prompts", {"a", "bcd"}}, {"samples", 5}, {"batch", 4}, {"sampling", {{"max_tokens", 20}}}};
  const stages::Estimate known = estimate(five, folder.path());
  CHECK(known.steps == 10);
  CHECK(known.step_unit == "completion");
  // Keys and values: 3 layers x 4 sequences x 22 positions x 2 heads x 6, of 2 bytes.
  CHECK(known.memory_bytes_per_rank.at("kv") == 2 * 3 * 4 * 22 * 2 * 6 * 2);
  CHECK(known.memory_bytes_per_rank.at("parameters") > 2 * 10'000);
  CHECK(estimate(five, of_stage, {{of_stage, config}}).memory_bytes_per_rank == known.memory_bytes_per_rank);
  resources.workers_per_node = 5;
  CHECK(estimate(five, folder.path()).memory_bytes_per_rank.at("kv") == 2 * 3 * 2 * 22 * 2 * 6 * 2);
  resources.workers_per_node = 1;
  const stages::Estimate of_file = estimate({{"prompts", {"a", {{"path", "/a.txt"}}}}, {"batch", 4}}, folder.path());
  CHECK(of_file.steps == 0);
  CHECK(of_file.memory_bytes_per_rank.at("kv") == 2 * 3 * 4 * 64 * 2 * 6 * 2);
  for (const std::string& unknown : {of_stage, (folder.path() / "absent").string()}) {
    CHECK(estimate(five, unknown).steps == 10);
    CHECK(estimate(five, unknown).memory_bytes_per_rank.empty());
  }
  folder.write("broken/config.json", "{");
  CHECK(estimate(five, folder.path() / "broken").memory_bytes_per_rank.empty());
}

}  // namespace
}  // namespace braise::infer
