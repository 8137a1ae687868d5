// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/config.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "tests/support/support.h"

using namespace braise;
using Catch::Contains;
using model::Config;
using nlohmann::json;

namespace {

json llama(const json& changes = json::object()) {
  json object{{"model_type", "llama"},         {"vocab_size", 100},      {"hidden_size", 32},
              {"intermediate_size", 64},       {"num_hidden_layers", 2}, {"num_attention_heads", 4},
              {"max_position_embeddings", 128}};
  object.update(changes);
  return object;
}

Config read(const json& object) {
  std::vector<std::string> problems;
  const std::optional<Config> config = model::read_hugging_face(object, problems);
  for (const std::string& problem : problems) UNSCOPED_INFO(problem);
  REQUIRE(config.has_value());
  return *config;
}

std::string problems_of(const json& object) {
  std::vector<std::string> problems;
  CHECK_FALSE(model::read_hugging_face(object, problems).has_value());
  std::string text;
  for (const std::string& problem : problems) text += problem + "\n";
  return text;
}

}  // namespace

TEST_CASE("what a file does not say is what transformers takes") {
  const Config plain = read(llama());
  CHECK(plain.kv_heads == 4);
  CHECK(plain.head_size == 8);
  CHECK(plain.norm_epsilon == 1e-6);
  CHECK(plain.rope->base == 10000);
  CHECK(plain.rope->rotary == 8);
  CHECK_FALSE(plain.tied);
  CHECK_FALSE(plain.window);
  CHECK(plain.parameter_count() == 100 * 32 * 2 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32);

  CHECK(read(llama({{"model_type", "mistral"}})).window == 4096);
  CHECK_FALSE(read(llama({{"model_type", "mistral"}, {"sliding_window", nullptr}})).window);
  CHECK(read(llama({{"model_type", "mistral"}, {"sliding_window", 7}})).window == 7);
  CHECK_FALSE(read(llama({{"use_sliding_window", true}, {"sliding_window", 7}})).window);  // llama has none
  const json qwen{{"model_type", "qwen2"}, {"use_sliding_window", true}, {"sliding_window", 7}};
  CHECK_FALSE(read(llama(qwen)).window);  // from layer 28 on: no layer
  json all = qwen;
  all["max_window_layers"] = 0;
  CHECK(read(llama(all)).window == 7);
  CHECK(read(llama({{"model_type", "gemma"}, {"hidden_act", "gelu"}})).activation == activation::Activation::kGeluTanh);
}

TEST_CASE("both ways of writing the rotation are read") {
  const json scaling{{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 64}};
  json together = scaling;
  together["rope_theta"] = 500000.0;
  for (const json& object :
       {llama({{"rope_theta", 500000.0}, {"rope_scaling", scaling}}), llama({{"rope_parameters", together}})}) {
    const Config config = read(object);
    CHECK(config.rope->base == 500000);
    const auto* const read_back = std::get_if<attention::Llama3Scaling>(&config.rope->scaling);
    REQUIRE(read_back != nullptr);
    CHECK(read_back->original_positions == 64);
  }
}

TEST_CASE("what Braise cannot compute is refused, all of it at once") {
  CHECK_THAT(problems_of(llama({{"model_type", "mamba"}})),
             Contains("model_type: is \"mamba\"; Braise knows gpt2, llama"));
  CHECK_THAT(problems_of(llama({{"hidden_size", 0}, {"vocab_size", "many"}, {"hidden_act", "relu"}})),
             Contains("vocab_size: is \"many\"; a whole number from 1") && Contains("hidden_size: is 0;") &&
                 Contains("hidden_act: is \"relu\"; one of gelu"));
  CHECK_THAT(problems_of(llama({{"num_attention_heads", 5}})),
             Contains("does not divide hidden_size 32; or give head_dim"));
  CHECK_THAT(problems_of(llama({{"num_key_value_heads", 3}})),
             Contains("num_key_value_heads: is 3, which does not divide num_attention_heads 4"));
  CHECK_THAT(problems_of(llama({{"head_dim", 7}})), Contains("an even number of channels must turn, not 7"));
  CHECK_THAT(problems_of(llama({{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}})),
             Contains("\"longrope\" is unknown; one of default, linear"));
  CHECK_THAT(problems_of(llama({{"layer_types", {"full_attention", "sliding_attention"}}})),
             Contains("layer_types: asks for layers of several kinds"));
  CHECK_THAT(problems_of(llama({{"model_type", "qwen3"}, {"use_sliding_window", true}, {"max_window_layers", 1}})),
             Contains("max_window_layers: is 1 of 2 layers"));
  CHECK_THAT(problems_of({{"model_type", "gpt2"},
                          {"vocab_size", 9},
                          {"n_embd", 10},
                          {"n_layer", 1},
                          {"n_head", 3},
                          {"scale_attn_by_inverse_layer_idx", true}}),
             Contains("n_head: is 3, which does not divide n_embd 10") &&
                 Contains("scale_attn_by_inverse_layer_idx: is true, which Braise cannot compute; only false is"));
  CHECK_THAT(problems_of(json::array()), Contains("is no JSON object"));

  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(model::read_hugging_face(folder.write("config.json", "{,}")),
                    Contains("config.json: is no JSON; a config.json of Hugging Face is needed"));
  CHECK_THROWS_WITH(model::read_hugging_face(folder.write("config.json", llama({{"hidden_size", -1}}).dump())),
                    Contains("a model that cannot be read:") && Contains("config.json: hidden_size: is -1"));
}
