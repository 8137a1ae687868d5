// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/work.h"

#include <catch2/catch.hpp>
#include <limits>

#include "kernels/core/error.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/json_lines.h"
#include "tests/stages/fake_context.h"
#include "tests/stages/infer/config.h"
#include "tests/stages/infer/tiny_model.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::infer {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using nlohmann::json;
using stages::Ending;
using test::FakeContext;
using test::infer_config;

/// A run directory with a model beside it.
struct Place {
  explicit Place(const model::Config& config = test::byte_model(), std::uint64_t seed = 4) {
    test::write_hugging_face(model(), config, seed);
  }
  fs::path model() const { return folder.path() / "model"; }

  std::unique_ptr<FakeContext> context(const json& changes, const std::string& attempt = "1-aaaaaa") const {
    auto context = std::make_unique<FakeContext>(folder.path() / "run", attempt);
    context->job_.kind = "infer";
    context->job_.seed = 21;
    context->job_.config = infer_config({{"model", model()}});
    context->job_.config.merge_patch(changes);
    return context;
  }
  test::TemporaryFolder folder;
};

struct Result {
  std::string generations;
  std::string text;
  std::vector<json> lines;
};

Result run(FakeContext& context) {
  stages::Outputs outputs;
  REQUIRE(infer::run(context, outputs) == Ending::completed);
  REQUIRE(outputs.size() == 2);
  Result result;
  for (const auto& [name, text] : {std::pair{"generations", &result.generations}, {"text", &result.text}}) {
    const stages::OutputFile& file = outputs.at(name).files.at(0);
    *text = io::read_file(context.attempt_dir() / file.path);
    CHECK(file.bytes == text->size());
    CHECK(file.sha256 == io::sha256(*text));
  }
  result.lines = io::read_json_lines(context.attempt_dir() / outputs.at("generations").files[0].path).objects;
  return result;
}

bool is_valid(const json& line) {
  return test::schema_faults(line, "generations.schema.json").empty();
}

TEST_CASE("completions stand in the order of prompts and samples, whatever the batch") {
  const Place place;
  const json changes = {{"samples", 3}, {"sampling", {{"temperature", 0.8}, {"top_k", 100}, {"top_p", 0.9}}}};
  const auto context = place.context(changes);
  const Result result = run(*context);
  REQUIRE(result.lines.size() == 9);
  const std::vector<std::string> prompts = {"The ", "A", "what?"};
  std::set<json> completions;
  for (std::size_t i = 0; i < 9; ++i) {
    const json& line = result.lines[i];
    INFO(line.dump());
    CHECK(is_valid(line));
    CHECK(line.at("prompt_index") == i / 3);
    CHECK(line.at("sample") == i % 3);
    CHECK(line.at("prompt") == prompts[i / 3]);
    CHECK(line.at("seed") == 21);
    CHECK(completions.insert(line.at("tokens")).second);
  }
  CHECK_THAT(result.text, Contains("--- prompt 2, sample 1: 12 tokens, length\nwhat?"));
  CHECK_FALSE(context->metrics_.empty());
  CHECK(context->metrics_.back().at("step") == 9);
  CHECK(context->metrics_.back().at("steps") == 9);
  CHECK_THAT(context->log_, Contains("parameters"));

  for (const int batch : {1, 2, 5}) {
    json other = changes;
    other["batch"] = batch;
    const auto again = place.context(other, "1-" + std::to_string(batch));
    const Result same = run(*again);
    CHECK(same.generations == result.generations);
    CHECK(same.text == result.text);
  }
  // A prompt's first samples stay what they are when there are more of them, and another seed gives others.
  json more = changes;
  more["samples"] = 4;
  const Result four = run(*place.context(more, "1-more"));
  CHECK(four.lines[1] == result.lines[1]);
  CHECK(four.lines[4 + 2] == result.lines[3 + 2]);
  const auto seeded = place.context(changes, "1-seed");
  seeded->job_.seed = 22;
  CHECK(run(*seeded).lines[0].at("tokens") != result.lines[0].at("tokens"));
}

TEST_CASE("prompts come from files too, and an empty one begins with the end of a document") {
  const Place place;
  const fs::path lines = place.folder.write("prompts.txt", "one\ntwo\n");
  const auto context = place.context({{"prompts", {"", {{"path", lines}, {"format", "auto"}, {"text_key", "text"}}}},
                                      {"sampling", {{"temperature", 0}}}});
  const io::FileDigest digest = io::digest_file(lines);
  context->job_.inputs = {{lines, digest.bytes, digest.sha256}};
  const Result result = run(*context);
  REQUIRE(result.lines.size() == 3);
  CHECK(result.lines[0].at("prompt") == "");
  CHECK(result.lines[2].at("prompt") == "two");

  const auto changed = place.context(context->job_.config, "2-bbbbbb");
  changed->job_.inputs = context->job_.inputs;
  place.folder.write("prompts.txt", "one\nTwo\n");
  stages::Outputs outputs;
  CHECK_THROWS_WITH(infer::run(*changed, outputs), Contains("has changed since the run was planned"));
}

TEST_CASE("what earlier attempts finished is taken over, and nothing else") {
  const Place place;
  const json changes = {{"prompts", {"a", "b", "c", "d", "e"}}, {"batch", 1}};
  const Result expected = run(*place.context(changes, "1-straight"));

  // Two completions of an attempt that did not end, one of them marked; a torn line; lines of another job or of no
  // sense.
  const auto first = place.context(changes, "1-aaaaaa");
  const json marked = {{"fingerprint", "fingerprint"},
                       {"request", 3},
                       {"tokens", {72, 105, 256}},
                       {"text_bytes", 2},
                       {"finish_reason", "end_of_document"}};
  const auto with = [&](const json& patch) {
    json line = marked;
    line.merge_patch(patch);
    return line.dump() + "\n";
  };
  std::string text = marked.dump() + "\n" + with({{"request", 1}, {"fingerprint", "another"}}) +
                     with({{"request", 2}, {"tokens", {999}}}) + with({{"request", 2}, {"finish_reason", "odd"}}) +
                     with({{"request", 0}, {"text_bytes", 3}}) + with({{"request", "x"}}) + "{}\n" +
                     with({{"request", 4}}).substr(0, 40);
  io::write_file_durably(first->attempt_dir() / "finished.1.jsonl", text);
  const auto second = place.context(changes, "2-bbbbbb");
  second->earlier_attempts_ = {first->attempt_dir()};
  const Result result = run(*second);
  REQUIRE(result.lines.size() == 5);
  CHECK(result.lines[3].at("completion") == "Hi");
  CHECK(result.lines[3].at("finish_reason") == "end_of_document");
  for (const std::size_t i : {0, 1, 2, 4}) CHECK(result.lines[i] == expected.lines[i]);
  CHECK_THAT(second->log_, Contains("1 completions taken over"));
  CHECK_THAT(second->log_, Contains("cannot be taken over and is made anew"));

  // All of them: no pass is made.
  const auto third = place.context(changes, "3-cccccc");
  third->earlier_attempts_ = {second->attempt_dir(), first->attempt_dir()};
  CHECK(run(*third).generations == result.generations);
  CHECK(std::find(third->operations_.begin(), third->operations_.end(), "pass 0") == third->operations_.end());
}

TEST_CASE("a request to stop is honoured between tokens, and the next attempt goes on") {
  const Place place;
  json changes = {{"prompts", json::array()}, {"batch", 2}, {"sampling", {{"max_tokens", 8}}}};
  for (int i = 0; i < 800; ++i) changes["prompts"].push_back("prompt " + std::to_string(i));
  const auto first = place.context(changes);
  first->request_ = stages::Request::stop;
  stages::Outputs outputs;
  REQUIRE(infer::run(*first, outputs) == Ending::stopped);
  CHECK(outputs.empty());
  CHECK_THAT(first->log_, Contains("stopping as asked"));
  const std::size_t done = io::read_json_lines(first->attempt_dir() / "finished.0.jsonl").objects.size();
  CHECK(done > 0);
  CHECK(done < 800);
  const auto second = place.context(changes, "2-bbbbbb");
  second->earlier_attempts_ = {first->attempt_dir()};
  const Result resumed = run(*second);
  CHECK_THAT(second->log_, Contains(std::to_string(done) + " completions taken over"));
  CHECK(resumed.generations == run(*place.context(changes, "1-straight")).generations);
}

TEST_CASE("models that do not fit are told") {
  const Place place;
  const auto fails = [&](const json& changes) {
    const auto context = place.context(changes);
    stages::Outputs outputs;
    try {
      infer::run(*context, outputs);
    } catch (const core::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(fails({{"tokenizer", {{"end_of_document", false}}}}),
             Contains("has a vocabulary of 257 tokens, and the tokenizer `bytes` one of 256"));
  CHECK_THAT(fails({{"tokenizer", {{"kind", "model"}}}}), Contains("does not say which tokenizer"));
  CHECK_THAT(fails({{"model", "/nowhere"}}), Contains("/nowhere is no model"));
  CHECK_THAT(fails({{"prompts", {"a", std::string(65, 'x'), "b"}}}),
             Contains("prompt 1 has 65 tokens, and the model 64 positions"));
  CHECK(fails({{"prompts", {std::string(64, 'x')}}}) == "");
  json many = json::array();
  for (int i = 0; i < 13; ++i) many.push_back(std::string(70, 'x'));
  CHECK_THAT(fails({{"prompts", many}}), Contains("prompt 9 has") && Contains("and 3 more") && !Contains("prompt 10"));
  fs::remove(place.model() / "model.safetensors");
  CHECK_THAT(fails(json::object()), Contains("neither model.safetensors nor model.safetensors.index.json"));

  model::Config config = test::byte_model();
  config.vocabulary = 256;
  const Place without_end(config);
  const auto context = without_end.context({{"tokenizer", {{"end_of_document", false}}}, {"prompts", {"a", ""}}});
  stages::Outputs outputs;
  CHECK_THROWS_WITH(infer::run(*context, outputs), Contains("prompt 1 is empty, and the tokenizer has no end-of-"));
}

TEST_CASE("weights that are no numbers are told") {
  const test::TemporaryFolder folder;
  test::write_hugging_face(folder.path() / "model", test::byte_model(), 3, [](const model::Parameter& parameter) {
    if (parameter.spec.name == "lm_head.weight") {
      parameter.value.data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  FakeContext context(folder.path() / "run");
  context.job_.config = infer_config({{"model", folder.path() / "model"}});
  stages::Outputs outputs;
  CHECK_THROWS_WITH(infer::run(context, outputs), Contains("the logit of token 0 of row 0 is NaN"));
}

}  // namespace
}  // namespace braise::infer
