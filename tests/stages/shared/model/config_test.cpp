// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/config.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <variant>

#include "kernels/core/error.h"
#include "stages/shared/model/model_at.h"
#include "tests/stages/shared/model/configs.h"
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

TEST_CASE("which layers have a window, and what else is theirs") {
  using Layers = std::set<std::int64_t>;
  const auto layers = [](const std::string& type, const json& changes) {
    json object = llama({{"model_type", type}, {"num_hidden_layers", 8}});
    object.update(changes);
    return read(object);
  };
  CHECK(layers("qwen3", {{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 3}}).full_layers ==
        Layers{0, 1, 2});
  CHECK(layers("mistral", json::object()).full_layers.empty());
  std::vector<std::string> types(8, "sliding_attention");
  types[5] = "full_attention";
  CHECK(layers("mistral", {{"layer_types", types}}).full_layers == Layers{5});
  CHECK_FALSE(layers("qwen2", {{"layer_types", types}, {"sliding_window", 7}}).window);  // use_sliding_window is false

  const Config gemma2 = layers("gemma2", json::object());
  CHECK(gemma2.window == 4096);
  CHECK(gemma2.full_layers == Layers{1, 3, 5, 7});
  CHECK(gemma2.has_window(0));
  CHECK_FALSE(gemma2.has_window(7));
  CHECK(gemma2.score_cap == 50);
  CHECK(gemma2.logit_cap == 30);
  CHECK(gemma2.attention_scale == 1 / 16.0);
  CHECK(layers("gemma2", {{"final_logit_softcapping", nullptr}}).logit_cap == 0);
  CHECK_FALSE(gemma2.local_rope);

  const Config gemma3 = layers("gemma3_text", {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}});
  CHECK(gemma3.full_layers == Layers{5});
  CHECK(gemma3.score_cap == 0);
  CHECK(gemma3.logit_cap == 0);
  CHECK(gemma3.rope->base == 1e6);
  CHECK(std::holds_alternative<attention::LinearScaling>(gemma3.rope->scaling));
  REQUIRE(gemma3.local_rope);
  CHECK(gemma3.local_rope->base == 10000);
  CHECK(std::holds_alternative<std::monostate>(gemma3.local_rope->scaling));
  // As transformers 5 writes it.
  const json ropes{{"full_attention", {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}}},
                   {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 20.0}}}};
  const Config newer = layers("gemma3_text", {{"rope_parameters", ropes}, {"layer_types", types}});
  CHECK(newer.full_layers == Layers{5});
  CHECK(newer.rope->base == 5e5);
  CHECK(newer.local_rope->base == 20);
  CHECK_FALSE(layers("gemma3_text", {{"sliding_window", nullptr}}).local_rope);

  const Config neox = layers("gpt_neox", {{"num_key_value_heads", nullptr}, {"intermediate_size", nullptr}});
  CHECK(neox.intermediate == 128);
  CHECK(neox.rope->rotary == 2);
  CHECK(neox.parallel);
  CHECK_FALSE(layers("gpt_neox", {{"use_parallel_residual", false}, {"rotary_pct", 1}}).parallel);
}

TEST_CASE("every configuration is written so that it reads back the same") {
  const json gemma{{"head_dim", 6}, {"query_pre_attn_scalar", 12}, {"sliding_window", 5}};
  for (const std::string type :
       {"gemma2", "gemma3_text", "gpt_neox", "olmo2", "phi3", "mistral", "qwen2", "qwen3", "stablelm"}) {
    for (const json& changes : {json::object(), gemma, json{{"use_sliding_window", true}, {"max_window_layers", 1}},
                                json{{"sliding_window", nullptr}, {"attn_logit_softcapping", nullptr}}}) {
      json object = llama({{"model_type", type}});
      object.update(changes);
      if (type == "phi3" || type == "stablelm") object.erase("head_dim");
      const Config config = read(object);
      INFO(type << " " << changes.dump());
      CHECK(test::equal(config, read(model::to_hugging_face(config))));
    }
  }
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
             Contains("model_type: is \"mamba\"; Braise knows gemma, gemma2, gemma3_text, gpt2"));
  // A file's words do nothing to a terminal.
  CHECK_THAT(problems_of(llama({{"model_type", "a\x1b[2Jb"}})),
             Contains("model_type: is \"a\\u001b[2Jb\"; Braise knows "));
  CHECK_THAT(problems_of(llama({{"hidden_act", "a\nb"}, {"rope_scaling", {{"type", "c\rd"}, {"factor", 2}}}})),
             Contains("hidden_act: is \"a\\nb\"; one of") && Contains("rope_scaling: \"c\\rd\" is unknown"));
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
             Contains("layer_types: asks for layers with a window, which llama has not"));
  const json mistral{{"model_type", "mistral"}};
  for (const auto& [types, problem] : std::vector<std::pair<json, std::string>>{
           {{"full_attention"}, "layer_types: is [\"full_attention\"]; a list of the types of all 2 layers is needed"},
           {"sliding_attention", "a list of the types of all 2 layers is needed"},
           {{"full_attention", "linear_attention"},
            "layer_types: has \"linear_attention\", which Braise cannot compute"}}) {
    json object = llama(mistral);
    object["layer_types"] = types;
    CHECK_THAT(problems_of(object), Contains(problem));
  }
  CHECK_THAT(problems_of(llama({{"model_type", "stablelm"}, {"use_parallel_residual", true}})),
             Contains("use_parallel_residual: is true, which Braise cannot compute; only false is"));
  CHECK_THAT(problems_of(llama({{"model_type", "gemma2"}, {"attn_logit_softcapping", -1}, {"head_dim", 8}})),
             Contains("attn_logit_softcapping: is -1; a number from 0.001"));
  CHECK_THAT(problems_of({{"model_type", "gpt2"},
                          {"vocab_size", 9},
                          {"n_embd", 10},
                          {"n_layer", 1},
                          {"n_head", 3},
                          {"scale_attn_by_inverse_layer_idx", true}}),
             Contains("n_head: is 3, which does not divide n_embd 10") &&
                 Contains("scale_attn_by_inverse_layer_idx: is true, which Braise cannot compute; only false is"));
  json huge = llama({{"head_dim", 256}, {"num_hidden_layers", 900}});
  for (const char* const key : {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"}) {
    huge[key] = 1 << 24;
  }
  CHECK_THAT(problems_of(huge), Contains("hidden_size: is 16777216, which with the other sizes makes") &&
                                    Contains("parameters; at most 1e+15 are taken"));
  CHECK_THAT(problems_of(json::array()), Contains("is no JSON object"));

  const test::TemporaryFolder folder;
  CHECK_THROWS_WITH(model::read_hugging_face(folder.write("config.json", "{,}")),
                    Contains("config.json: is no JSON; a config.json of Hugging Face is needed"));
  CHECK_THROWS_WITH(model::read_hugging_face(folder.write("config.json", llama({{"hidden_size", -1}}).dump())),
                    Contains("a model that cannot be read:") && Contains("config.json: hidden_size: is -1"));
}

TEST_CASE("a model's configuration is found in its folder, and a checkpoint's in its manifest") {
  const test::TemporaryFolder folder;
  folder.write("given/config.json", llama().dump());
  const auto same_as_given = [&](const std::filesystem::path& path) {
    std::vector<std::string> problems;
    const std::optional<Config> config = model::config_at(path, problems);
    CHECK(problems.empty());
    return config && model::to_hugging_face(*config) == model::to_hugging_face(read(llama()));
  };
  CHECK(same_as_given(folder.path() / "given"));
  const auto manifest = folder.write("saved/manifest.json", json{{"metadata", {{"model", llama()}}}}.dump());
  CHECK(same_as_given(folder.path() / "saved"));
  CHECK(same_as_given(manifest));

  const auto problems_at = [&](const std::filesystem::path& path) {
    std::vector<std::string> problems;
    CHECK_FALSE(model::config_at(path, problems));
    std::string text;
    for (const std::string& problem : problems) text += problem + "\n";
    return text;
  };
  folder.write("wrong/config.json", llama({{"hidden_size", -1}, {"num_hidden_layers", 0}}).dump());
  CHECK_THAT(problems_at(folder.path() / "wrong"), Contains("wrong/config.json: hidden_size: is -1") &&
                                                       Contains("wrong/config.json: num_hidden_layers: is 0"));
  folder.write("other/manifest.json", R"({"metadata": {"tokens": 1}})");
  CHECK_THAT(problems_at(folder.path() / "other"),
             Contains("manifest.json: is no manifest of a checkpoint of a model"));
  CHECK_THAT(problems_at(folder.path()), Contains("is no model: a checkpoint has a manifest.json"));
  CHECK_THAT(problems_at(folder.write("cut.gguf", "GGUF")), Contains("cut.gguf"));
}
