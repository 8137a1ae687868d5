// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/generator.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/tier.h"
#include "kernels/sampling/sampling.h"
#include "stages/shared/model/generation_memory.h"
#include "stages/shared/text/byte_tokenizer.h"
#include "tests/stages/infer/tiny_model.h"

namespace braise::infer {
namespace {

using Catch::Contains;
using core::Dtype;
using core::Shape;
using test::TestTensor;

const text::ByteTokenizer kTokenizer(true);

struct Trial {
  explicit Trial(const model::Config& config, Dtype compute = Dtype::kBfloat16)
      : decoder(bench.stream(), config, {.compute = compute, .gradients = false, .checkpointing = {}}) {
    decoder.initialise(8);
  }

  /// All completions, by request, of `batch` at a time.
  std::map<std::size_t, Generation> generate(const std::vector<std::string>& prompts, const Sampling& sampling,
                                             std::int64_t batch, std::int64_t positions = 64) {
    Generator generator(bench.stream(), decoder, kTokenizer, sampling, batch, positions);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Request request{i, 100 + i, {}};
      kTokenizer.encode(prompts[i], request.tokens);
      generator.add(std::move(request));
    }
    std::map<std::size_t, Generation> generations;
    std::uint64_t tokens = 0;
    bool more = true;
    while (more) {
      more = generator.step([&](std::size_t id, Generation generation) {
        tokens += generation.tokens.size();
        CHECK(generations.emplace(id, std::move(generation)).second);
      });
    }
    CHECK_FALSE(generator.step([](std::size_t, const Generation&) { FAIL("nothing was left"); }));
    CHECK(generator.tokens() == tokens);
    return generations;
  }

  /// The same token by token, from passes over all that there is so far, alone.
  std::vector<std::uint32_t> by_whole_passes(const std::string& prompt, const Sampling& sampling,
                                             std::uint64_t random) {
    std::vector<std::uint32_t> tokens;
    kTokenizer.encode(prompt, tokens);
    const std::size_t begin = tokens.size();
    for (std::int64_t i = 0; i < sampling.max_tokens; ++i) {
      const std::int64_t length = std::ssize(tokens);
      const TestTensor ids(Dtype::kInt32, Shape{1, length}, std::vector<double>(tokens.begin(), tokens.end()));
      const TestTensor logits(Dtype::kFloat32, Shape{1, length, 257});
      model::Batch whole;
      whole.ids = ids.view();
      decoder.logits(logits.view(), whole);
      const TestTensor chosen(Dtype::kInt32, Shape{1});
      const sampling::Choice choice{sampling.temperature, sampling.top_k, sampling.top_p,
                                    sampling.seed,        random,         static_cast<std::uint64_t>(i)};
      sampling::sample(bench.stream(), chosen.view(), logits.view().select(0, 0).slice(0, length - 1, length),
                       std::vector{choice});
      tokens.push_back(static_cast<std::uint32_t>(chosen.values()[0]));
      if (tokens.back() == 256) break;
    }
    return {tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.end()};
  }

  test::Bench bench;
  model::Decoder decoder;
};

TEST_CASE("a prompt's tokens do not depend on what is continued beside it, and are those of whole passes") {
  for (const model::Config& config :
       {test::byte_model(test::small_gpt2()), test::byte_model(test::small_everything())}) {
    for (const Dtype compute : {Dtype::kFloat32, Dtype::kBfloat16}) {
      Trial trial(config, compute);
      std::vector<std::string> prompts = {"a", "The cat", "xyz", "The cat", "0123456789", "bc", "Q?"};
      Sampling sampling;
      sampling.temperature = 0.9f;
      sampling.top_k = 60;
      sampling.top_p = 0.95;
      sampling.max_tokens = 10;
      sampling.seed = 5;
      const auto alone = trial.generate(prompts, sampling, 1, config.positions);
      REQUIRE(alone.size() == prompts.size());
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        CHECK(alone.at(i).tokens == trial.by_whole_passes(prompts[i], sampling, 100 + i));
      }
      // Equal prompts have random numbers of their own.
      CHECK(alone.at(1).tokens != alone.at(3).tokens);
      for (const std::int64_t batch : {2, 3, 7, 20}) {
        const auto together = trial.generate(prompts, sampling, batch, config.positions);
        for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(together.at(i).tokens == alone.at(i).tokens);
      }
    }
  }
}

TEST_CASE("prompts longer than a pass go through in parts") {
  model::Config config = test::byte_model();
  config.positions = 2000;
  Trial trial(config);
  std::vector<std::string> prompts;
  for (const std::size_t length : {700, 3, 1, 1300, 600}) {
    std::string prompt;
    for (std::size_t i = 0; i < length; ++i) prompt += static_cast<char>('a' + i * i % 23);
    prompts.push_back(prompt);
  }
  Sampling sampling;
  sampling.max_tokens = 4;
  const auto together = trial.generate(prompts, sampling, 5, 1400);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    CHECK(together.at(i).tokens == trial.by_whole_passes(prompts[i], sampling, 100 + i));
  }
}

TEST_CASE("completions end where they should") {
  Trial trial(test::byte_model());
  Sampling sampling;
  sampling.temperature = 0;
  sampling.max_tokens = 12;
  const Generation full = trial.generate({"ab"}, sampling, 1).at(0);
  CHECK(full.finish == Finish::kLength);
  CHECK(full.tokens.size() == 12);
  REQUIRE(full.text.size() == 12);  // no end of a document among them

  // A stop text, wherever it begins; that of several which comes first.
  sampling.stop = {full.text.substr(4, 3), "not there", full.text.substr(6, 2)};
  const std::size_t at = std::min(full.text.find(sampling.stop[0]), full.text.find(sampling.stop[2]));
  const Generation stopped = trial.generate({"ab"}, sampling, 1).at(0);
  CHECK(stopped.finish == Finish::kStop);
  CHECK(stopped.text == full.text.substr(0, at));
  CHECK(stopped.tokens.size() <= 8);
  CHECK(std::equal(stopped.tokens.begin(), stopped.tokens.end(), full.tokens.begin()));
  // In the prompt it counts for nothing.
  sampling.stop = {"ab"};
  CHECK(trial.generate({"ab"}, sampling, 1).at(0).text == full.text);
  // One that ends with the last token stands before the length.
  sampling.stop = {full.text};
  CHECK(trial.generate({"ab"}, sampling, 1).at(0).finish == Finish::kStop);
  CHECK(trial.generate({"ab"}, sampling, 1).at(0).text.empty());
  sampling.stop.clear();

  // No more positions: as many tokens go in as there are, and one more comes out.
  const Generation cut = trial.generate({"ab"}, sampling, 1, 7).at(0);
  CHECK(cut.finish == Finish::kPositions);
  CHECK(cut.tokens == std::vector<std::uint32_t>(full.tokens.begin(), full.tokens.begin() + 6));
  const Generation last = trial.generate({"ab"}, sampling, 1, 2).at(0);
  CHECK(last.finish == Finish::kPositions);
  CHECK(last.tokens.size() == 1);
}

TEST_CASE("the end of a document ends a completion and is no text") {
  Trial trial(test::byte_model());
  Sampling sampling;
  sampling.max_tokens = 2000;
  sampling.temperature = 100;  // every token is about as likely as any
  const Generation ended = trial.generate({"ab"}, sampling, 1, 2002).at(0);
  REQUIRE(ended.finish == Finish::kEndOfDocument);
  CHECK(ended.tokens.back() == 256);
  CHECK(ended.text.size() == ended.tokens.size() - 1);
}

TEST_CASE("tokens that the tokenizer lacks never come") {
  model::Config config = test::small_llama();
  config.vocabulary = 400;
  Trial trial(config);
  Sampling sampling;
  sampling.temperature = 1000;
  sampling.max_tokens = 60;
  for (const auto& [id, generation] : trial.generate({"a", "b", "c", "d"}, sampling, 4)) {
    for (const std::uint32_t token : generation.tokens) CHECK(token < 257);
  }
  config.vocabulary = 256;
  Trial small(config);
  CHECK_THROWS_WITH(Generator(small.bench.stream(), small.decoder, kTokenizer, sampling, 1, 10),
                    Contains("the tokenizer has more tokens than the model"));
}

TEST_CASE("memory is what was predicted") {
  const std::vector<std::pair<model::Config, Dtype>> models{{test::small_gpt2(), Dtype::kFloat32},
                                                            {test::small_everything(), Dtype::kFloat32},
                                                            {test::small_olmo(), Dtype::kFloat32},
                                                            {test::small_llama(), Dtype::kFloat16},
                                                            {test::small_llama(), Dtype::kBfloat16}};
  for (auto [config, dtype] : models) {
    INFO(config.model_type << " in " << core::name(dtype));
    config.vocabulary = 3000;
    config.layers = 4;
    config.hidden = 256;
    config.heads = 8;
    config.kv_heads = config.family == model::Family::kGpt2 ? 8 : 2;
    config.head_size = 32;
    if (config.rope) config.rope->rotary = 32;
    config.intermediate = 700;
    config.positions = 640;
    Trial trial(config, dtype);
    trial.bench.ledger().reset_peaks();
    Sampling sampling;
    sampling.max_tokens = 41;
    sampling.top_p = 0.9;
    constexpr std::int64_t kPrompt = 600;
    const model::GenerationMemory predicted = model::generation_memory(config, dtype,
                                                                       {.sequences = 3,
                                                                        .positions = 640,
                                                                        .pass_tokens = kPassTokens,
                                                                        .threads = core::threads(),
                                                                        .tier = core::tier()});
    trial.generate(std::vector<std::string>(4, std::string(kPrompt, 'x')), sampling, 3, 640);
    const auto peak = [&](core::Category category) {
      return static_cast<double>(trial.bench.ledger().peak_bytes(core::Space::kDevice, category));
    };
    const auto close = [](std::int64_t value) { return Approx(static_cast<double>(value)).epsilon(0.03); };
    CHECK(peak(core::Category::kParameters) == close(predicted.parameters));
    CHECK(peak(core::Category::kKv) == close(predicted.kv));
    CHECK(peak(core::Category::kActivations) == close(predicted.activations));
    CHECK(peak(core::Category::kWorkspace) == close(predicted.workspace));
  }
}

TEST_CASE("logits that are not numbers name the requests, and requests that do not fit are refused") {
  Trial trial(test::byte_model());
  const Sampling sampling;
  Generator generator(trial.bench.stream(), trial.decoder, kTokenizer, sampling, 2, 8);
  CHECK_THROWS_WITH(generator.add({0, 0, {}}), Contains("no tokens"));
  CHECK_THROWS_WITH(generator.add({0, 0, std::vector<std::uint32_t>(9, 1)}),
                    Contains("more tokens than there is room"));
  core::fill(trial.bench.stream(), trial.decoder.parameters().back().value, std::numeric_limits<float>::quiet_NaN());
  trial.decoder.values_changed();
  generator.add({7, 0, {1, 2}});
  generator.add({9, 0, {3}});
  CHECK_THROWS_WITH(generator.step([](std::size_t, const Generation&) {}),
                    Contains("of row 0 is NaN; rows are the requests 7 9. The weights are not finite"));
}

}  // namespace
}  // namespace braise::infer
