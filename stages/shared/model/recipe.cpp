// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/recipe.h"

#include <map>
#include <nlohmann/json.hpp>

namespace braise::model {
namespace {

using nlohmann::json;

constexpr std::int64_t kIntermediateMultiple = 64;

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The model of Hugging Face that has what a recipe's `llama` asks for.
std::string llama_type(const json& model) {
  if (model.at("qk_norm") == true) return "qwen3";
  if (model.at("bias") == "qkv") return "qwen2";
  return model.at("window") > 0 ? "mistral" : "llama";
}

/// The recipe's word for a key of a config.json.
std::string recipe_key(const std::string& key) {
  static const std::map<std::string, std::string> kKeys{{"n_embd", "hidden"},
                                                        {"n_layer", "layers"},
                                                        {"n_head", "heads"},
                                                        {"n_positions", "positions"},
                                                        {"hidden_size", "hidden"},
                                                        {"num_hidden_layers", "layers"},
                                                        {"num_attention_heads", "heads"},
                                                        {"num_key_value_heads", "kv_heads"},
                                                        {"head_dim", "head_size"},
                                                        {"intermediate_size", "intermediate"},
                                                        {"n_inner", "intermediate"},
                                                        {"max_position_embeddings", "positions"},
                                                        {"vocab_size", "vocabulary"}};
  const auto found = kKeys.find(key);
  return found == kKeys.end() ? "" : found->second;
}

class RecipeModel {
 public:
  RecipeModel(const json& model, std::vector<RecipeProblem>& problems) : model_(model), problems_(problems) {}

  std::int64_t size(const char* key) const { return model_.at(key).get<std::int64_t>(); }

  std::int64_t size(const char* key, std::int64_t otherwise) const { return size(key) == 0 ? otherwise : size(key); }

  void problem(const std::string& key, const std::string& problem, const std::string& remedy) {
    problems_.push_back({key, problem, remedy});
  }

  /// What must be given and be right before anything is derived from it.
  bool check_sizes() {
    const std::size_t before = problems_.size();
    for (const char* const key : {"layers", "hidden", "heads"}) {
      if (size(key) == 0) problem(key, "is missing", "must be a whole number from 1, or `from` a model");
    }
    if (problems_.size() > before) return false;
    const std::int64_t hidden = size("hidden");
    const std::int64_t heads = size("heads");
    const std::int64_t kv_heads = size("kv_heads", heads);
    if (size("head_size") == 0 && hidden % heads != 0) {
      problem("heads", "is " + std::to_string(heads) + ", which does not divide hidden " + std::to_string(hidden),
              "must divide it, or give head_size");
    } else if (size("head_size", hidden / heads) > 256) {
      problem("heads", "leaves heads of " + std::to_string(hidden / heads) + " channels", "must leave at most 256");
    }
    if (heads % kv_heads != 0) {
      problem("kv_heads", "is " + std::to_string(kv_heads) + ", which does not divide heads " + std::to_string(heads),
              "must divide it");
    }
    if (model_.at("family") == "gpt2") {
      for (const auto& [key, plain] : {std::pair<const char*, json>{"bias", "none"},
                                       {"qk_norm", false},
                                       {"window", 0},
                                       {"kv_heads", 0},
                                       {"head_size", 0}}) {
        if (model_.at(key) != plain) problem(key, "is given, but family gpt2 has none", "leave it out, or take llama");
      }
    } else if (model_.at("bias") == "all" && llama_type(model_) != "llama") {
      problem("bias", "is all, which does not go with qk_norm or window", "must be none or qkv");
    } else if (size("head_size", hidden / heads) % 2 != 0) {
      problem("head_size", "is " + std::to_string(size("head_size", hidden / heads)),
              "must be even, as rotary positions turn pairs of channels");
    }
    return problems_.size() == before;
  }

  json to_hugging_face(std::int64_t vocabulary, std::int64_t positions) const {
    const bool gpt2 = model_.at("family") == "gpt2";
    const std::int64_t hidden = size("hidden");
    const json& tied = model_.at("tied");
    const json& dropout = model_.at("dropout");
    json object{{"model_type", gpt2 ? "gpt2" : llama_type(model_)},
                {"vocab_size", size("vocabulary", vocabulary)},
                {"tie_word_embeddings", tied.is_boolean() ? tied : json(gpt2)},
                {"initializer_range", model_.at("initial_std")}};
    if (gpt2) {
      object.update({{"n_embd", hidden},
                     {"n_layer", size("layers")},
                     {"n_head", size("heads")},
                     {"n_positions", size("positions", positions)},
                     {"n_inner", size("intermediate", 4 * hidden)},
                     {"layer_norm_epsilon", model_.at("norm_epsilon")},
                     {"embd_pdrop", dropout.at("embedding")},
                     {"attn_pdrop", dropout.at("attention")},
                     {"resid_pdrop", dropout.at("residual")}});
      return object;
    }
    object.update({{"hidden_size", hidden},
                   {"num_hidden_layers", size("layers")},
                   {"num_attention_heads", size("heads")},
                   {"num_key_value_heads", size("kv_heads", size("heads"))},
                   {"head_dim", size("head_size", hidden / size("heads"))},
                   {"intermediate_size", size("intermediate", rounded_up((8 * hidden + 2) / 3, kIntermediateMultiple))},
                   {"max_position_embeddings", size("positions", positions)},
                   {"rms_norm_eps", model_.at("norm_epsilon")},
                   {"rope_theta", model_.at("rope_theta")},
                   {"attention_dropout", dropout.at("attention")}});
    if (llama_type(model_) != "qwen2") {
      object["attention_bias"] = model_.at("bias") != "none";
      object["mlp_bias"] = model_.at("bias") == "all";
    }
    object["sliding_window"] = nullptr;
    if (size("window") > 0) {
      object.update({{"sliding_window", size("window")}, {"use_sliding_window", true}, {"max_window_layers", 0}});
    }
    return object;
  }

 private:
  const json& model_;
  std::vector<RecipeProblem>& problems_;
};

}  // namespace

std::optional<Config> from_recipe(const json& model, std::int64_t vocabulary, std::int64_t positions,
                                  std::vector<RecipeProblem>& problems) {
  RecipeModel recipe(model, problems);
  if (!recipe.check_sizes()) return std::nullopt;
  std::vector<std::string> found;
  std::optional<Config> config = read_hugging_face(recipe.to_hugging_face(vocabulary, positions), found);
  for (const std::string& problem : found) {
    const std::size_t colon = problem.find(": ");
    problems.push_back({recipe_key(problem.substr(0, colon)), problem.substr(colon + 2), "change it"});
  }
  if (!config) return std::nullopt;
  // Dropout is how a model is trained rather than what it is, so it need not have a place in config.json.
  config->embedding_dropout = model.at("dropout").at("embedding");
  config->residual_dropout = model.at("dropout").at("residual");
  return config;
}

}  // namespace braise::model
