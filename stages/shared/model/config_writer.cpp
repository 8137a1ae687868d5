// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/shared/model/config.h"
#include "stages/shared/model/config_names.h"

namespace braise::model {
namespace {

using activation::Activation;
using nlohmann::json;

std::string name_of(Activation activation) {
  return activation == Activation::kGelu ? "gelu" : activation == Activation::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
}

void write_scaling(const attention::RopeSettings& rope, json& object) {
  json scaling;
  if (const auto* const linear = std::get_if<attention::LinearScaling>(&rope.scaling)) {
    scaling = {{"rope_type", "linear"}, {"factor", linear->factor}};
  } else if (const auto* const ntk = std::get_if<attention::DynamicNtkScaling>(&rope.scaling)) {
    scaling = {{"rope_type", "dynamic"}, {"factor", ntk->factor}};
  } else if (const auto* const llama3 = std::get_if<attention::Llama3Scaling>(&rope.scaling)) {
    scaling = {{"rope_type", "llama3"},
               {"factor", llama3->factor},
               {"low_freq_factor", llama3->low_frequency_factor},
               {"high_freq_factor", llama3->high_frequency_factor},
               {"original_max_position_embeddings", llama3->original_positions}};
  } else if (const auto* const yarn = std::get_if<attention::YarnScaling>(&rope.scaling)) {
    scaling = {{"rope_type", "yarn"},
               {"factor", yarn->factor},
               {"beta_fast", yarn->beta_fast},
               {"beta_slow", yarn->beta_slow},
               {"truncate", yarn->whole_channels},
               {"original_max_position_embeddings", yarn->original_positions}};
    if (yarn->attention_factor) scaling["attention_factor"] = *yarn->attention_factor;
    if (yarn->mscale) scaling["mscale"] = *yarn->mscale;
    if (yarn->mscale_all) scaling["mscale_all_dim"] = *yarn->mscale_all;
  }
  if (!scaling.is_null()) object["rope_scaling"] = scaling;
}

}  // namespace

const std::map<std::string, std::string>& class_names() {
  static const std::map<std::string, std::string> kNames{
      {"gemma", "GemmaForCausalLM"},
      {"gemma2", "Gemma2ForCausalLM"},
      {"gemma3_text", "Gemma3ForCausalLM"},
      {"gpt2", "GPT2LMHeadModel"},
      {"gpt_neox", "GPTNeoXForCausalLM"},
      {"llama", "LlamaForCausalLM"},
      {"mistral", "MistralForCausalLM"},
      {"olmo2", "Olmo2ForCausalLM"},
      {"phi3", "Phi3ForCausalLM"},
      {"qwen2", "Qwen2ForCausalLM"},
      {"qwen3", "Qwen3ForCausalLM"},
      {"stablelm", "StableLmForCausalLM"},
      {"starcoder2", "Starcoder2ForCausalLM"},
  };
  return kNames;
}

json to_hugging_face(const Config& config) {
  json object{{"architectures", {class_names().at(config.model_type)}},
              {"model_type", config.model_type},
              {"vocab_size", config.vocabulary},
              {"tie_word_embeddings", config.tied},
              {"initializer_range", config.initial_std}};
  if (config.family == Family::kGpt2) {
    object.update(
        {{"n_embd", config.hidden},
         {"n_layer", config.layers},
         {"n_head", config.heads},
         {"n_positions", config.positions},
         {"n_ctx", config.positions},
         {"n_inner", config.intermediate},
         {"layer_norm_epsilon", config.norm_epsilon},
         {"activation_function", config.activation == Activation::kGeluTanh ? "gelu_new" : name_of(config.activation)},
         {"embd_pdrop", config.embedding_dropout},
         {"attn_pdrop", config.attention_dropout},
         {"resid_pdrop", config.residual_dropout}});
    return object;
  }
  if (config.family == Family::kNeox) {
    object.update({{"hidden_size", config.hidden},
                   {"intermediate_size", config.intermediate},
                   {"num_hidden_layers", config.layers},
                   {"num_attention_heads", config.heads},
                   {"max_position_embeddings", config.positions},
                   {"layer_norm_eps", config.norm_epsilon},
                   {"hidden_act", name_of(config.activation)},
                   {"rotary_emb_base", config.rope->base},
                   {"rotary_pct", static_cast<double>(config.rope->rotary) / static_cast<double>(config.head_size)},
                   {"use_parallel_residual", config.parallel},
                   {"attention_bias", config.qkv_bias},
                   {"attention_dropout", config.attention_dropout},
                   {"hidden_dropout", config.residual_dropout}});
    write_scaling(*config.rope, object);
    return object;
  }
  const bool starcoder = config.model_type == "starcoder2";
  const bool stable = config.model_type == "stablelm";
  object.update(
      {{"hidden_size", config.hidden},
       {"intermediate_size", config.intermediate},
       {"num_hidden_layers", config.layers},
       {"num_attention_heads", config.heads},
       {"num_key_value_heads", config.kv_heads},
       {"head_dim", config.head_size},
       {"max_position_embeddings", config.positions},
       {starcoder ? "norm_epsilon"
        : stable  ? "layer_norm_eps"
                  : "rms_norm_eps",
        config.norm_epsilon},
       {config.model_type.starts_with("gemma") ? "hidden_activation" : "hidden_act", name_of(config.activation)},
       {"rope_theta", config.rope->base},
       {"attention_dropout", config.attention_dropout}});
  if (starcoder) {
    object.update({{"use_bias", config.qkv_bias},
                   {"residual_dropout", config.residual_dropout},
                   {"embedding_dropout", config.embedding_dropout}});
  } else if (config.model_type == "phi3") {
    object["resid_pdrop"] = config.residual_dropout;
    object["embd_pdrop"] = 0.0;
  } else if (stable) {
    object["use_qkv_bias"] = config.qkv_bias;
  } else if (config.model_type != "qwen2") {
    object["attention_bias"] = config.qkv_bias;
    if (config.model_type != "olmo2") object["mlp_bias"] = config.mlp_bias;
  }
  if (config.model_type == "gemma2" || config.model_type == "gemma3_text") {
    // What the scale was made of: nearly always a whole number.
    const double scalar = 1 / (config.attention_scale * config.attention_scale);
    const double whole = std::round(scalar);
    object["query_pre_attn_scalar"] = 1 / std::sqrt(whole) == config.attention_scale ? json(whole) : json(scalar);
    object["attn_logit_softcapping"] = config.score_cap > 0 ? json(config.score_cap) : json();
    object["final_logit_softcapping"] = config.logit_cap > 0 ? json(config.logit_cap) : json();
  }
  if (config.local_rope) object["rope_local_base_freq"] = config.local_rope->base;
  const bool usual = config.model_type == "mistral" || config.model_type.starts_with("gemma");
  if (config.window) {
    object["sliding_window"] = *config.window;
    object["use_sliding_window"] = true;
    std::vector<std::string> types;
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      types.emplace_back(config.has_window(layer) ? "sliding_attention" : "full_attention");
    }
    object["layer_types"] = types;
  } else if (usual) {
    object["sliding_window"] = nullptr;
  }
  if (config.rope->rotary != config.head_size || stable) {
    object["partial_rotary_factor"] = static_cast<double>(config.rope->rotary) / static_cast<double>(config.head_size);
  }
  write_scaling(*config.rope, object);
  return object;
}

}  // namespace braise::model
