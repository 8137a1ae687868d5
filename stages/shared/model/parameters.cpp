// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/parameters.h"

#include <cmath>
#include <utility>

namespace braise::model {
namespace {

using core::Shape;

class Lister {
 public:
  explicit Lister(const Config& config) : config_(config) {}

  void layer(std::int64_t layer, std::string prefix) {
    layer_ = layer;
    prefix_ = std::move(prefix);
  }

  void normal(const std::string& name, Role role, const Shape& shape, double std, std::int64_t offset = 0) {
    add({prefix_ + name, shape, role, layer_, offset, Initial::kNormal, std});
  }
  void zeros(const std::string& name, Role role, std::int64_t size, std::int64_t offset = 0) {
    add({prefix_ + name, Shape{size}, role, layer_, offset, Initial::kZeros, 0});
  }
  void ones(const std::string& name, Role role, std::int64_t size) {
    add({prefix_ + name, Shape{size}, role, layer_, 0, Initial::kOnes, 0});
  }

  /// The weight and, of a layer norm, the bias.
  void norm(const std::string& name, Role weight, Role bias) {
    ones(name + ".weight", weight, config_.hidden);
    if (config_.norm == Norm::kLayer) zeros(name + ".bias", bias, config_.hidden);
  }

  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  void add(ParameterSpec spec) { specs_.push_back(std::move(spec)); }
  const Config& config_;
  std::int64_t layer_ = -1;
  std::string prefix_;
  std::vector<ParameterSpec> specs_;
};

void list_gpt2(const Config& c, Lister& list) {
  const double residual_std = c.initial_std / std::sqrt(2.0 * static_cast<double>(c.layers));
  list.layer(-1, "transformer.");
  list.normal("wte.weight", Role::kTokens, Shape{c.vocabulary, c.hidden}, c.initial_std);
  list.normal("wpe.weight", Role::kPositions, Shape{c.positions, c.hidden}, c.initial_std);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    list.layer(i, "transformer.h." + std::to_string(i) + ".");
    list.norm("ln_1", Role::kNorm1Weight, Role::kNorm1Bias);
    list.normal("attn.c_attn.weight", Role::kQkvWeight, Shape{c.hidden, 3 * c.hidden}, c.initial_std);
    list.zeros("attn.c_attn.bias", Role::kQkvBias, 3 * c.hidden);
    list.normal("attn.c_proj.weight", Role::kOWeight, Shape{c.hidden, c.hidden}, residual_std);
    list.zeros("attn.c_proj.bias", Role::kOBias, c.hidden);
    list.norm("ln_2", Role::kNorm2Weight, Role::kNorm2Bias);
    list.normal("mlp.c_fc.weight", Role::kUpWeight, Shape{c.hidden, c.intermediate}, c.initial_std);
    list.zeros("mlp.c_fc.bias", Role::kUpBias, c.intermediate);
    list.normal("mlp.c_proj.weight", Role::kDownWeight, Shape{c.intermediate, c.hidden}, residual_std);
    list.zeros("mlp.c_proj.bias", Role::kDownBias, c.hidden);
  }
  list.layer(-1, "");
  list.norm("transformer.ln_f", Role::kFinalWeight, Role::kFinalBias);
}

void list_llama(const Config& c, Lister& list) {
  const std::int64_t q = c.heads * c.head_size;
  const std::int64_t kv = c.kv_heads * c.head_size;
  list.layer(-1, "");
  list.normal("model.embed_tokens.weight", Role::kTokens, Shape{c.vocabulary, c.hidden}, c.initial_std);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    list.layer(i, "model.layers." + std::to_string(i) + ".");
    if (c.norm_before) list.norm("input_layernorm", Role::kNorm1Weight, Role::kNorm1Bias);
    if (c.fused) {
      list.normal("self_attn.qkv_proj.weight", Role::kQkvWeight, Shape{q + 2 * kv, c.hidden}, c.initial_std);
    } else {
      list.normal("self_attn.q_proj.weight", Role::kQkvWeight, Shape{q, c.hidden}, c.initial_std);
      list.normal("self_attn.k_proj.weight", Role::kQkvWeight, Shape{kv, c.hidden}, c.initial_std, q * c.hidden);
      list.normal("self_attn.v_proj.weight", Role::kQkvWeight, Shape{kv, c.hidden}, c.initial_std, (q + kv) * c.hidden);
    }
    if (c.qkv_bias) {
      list.zeros("self_attn.q_proj.bias", Role::kQkvBias, q);
      list.zeros("self_attn.k_proj.bias", Role::kQkvBias, kv, q);
      list.zeros("self_attn.v_proj.bias", Role::kQkvBias, kv, q + kv);
    }
    if (c.qk_norm) {
      list.ones("self_attn.q_norm.weight", Role::kQNorm, c.qk_norm_whole ? q : c.head_size);
      list.ones("self_attn.k_norm.weight", Role::kKNorm, c.qk_norm_whole ? kv : c.head_size);
    }
    list.normal("self_attn.o_proj.weight", Role::kOWeight, Shape{c.hidden, q}, c.initial_std);
    if (c.o_bias) list.zeros("self_attn.o_proj.bias", Role::kOBias, c.hidden);
    if (c.norm_after) list.norm("post_attention_layernorm", Role::kAfter1Weight, Role::kAfter1Bias);
    if (c.norm_before) {
      list.norm(c.norm_after ? "pre_feedforward_layernorm" : "post_attention_layernorm", Role::kNorm2Weight,
                Role::kNorm2Bias);
    }
    if (c.gated && c.fused) {
      list.normal("mlp.gate_up_proj.weight", Role::kUpWeight, Shape{2 * c.intermediate, c.hidden}, c.initial_std);
      list.normal("mlp.down_proj.weight", Role::kDownWeight, Shape{c.hidden, c.intermediate}, c.initial_std);
    } else if (c.gated) {
      list.normal("mlp.gate_proj.weight", Role::kUpWeight, Shape{c.intermediate, c.hidden}, c.initial_std);
      list.normal("mlp.up_proj.weight", Role::kUpWeight, Shape{c.intermediate, c.hidden}, c.initial_std,
                  c.intermediate * c.hidden);
      list.normal("mlp.down_proj.weight", Role::kDownWeight, Shape{c.hidden, c.intermediate}, c.initial_std);
      if (c.mlp_bias) {
        list.zeros("mlp.gate_proj.bias", Role::kUpBias, c.intermediate);
        list.zeros("mlp.up_proj.bias", Role::kUpBias, c.intermediate, c.intermediate);
        list.zeros("mlp.down_proj.bias", Role::kDownBias, c.hidden);
      }
    } else {
      list.normal("mlp.c_fc.weight", Role::kUpWeight, Shape{c.intermediate, c.hidden}, c.initial_std);
      list.normal("mlp.c_proj.weight", Role::kDownWeight, Shape{c.hidden, c.intermediate}, c.initial_std);
      if (c.mlp_bias) {
        list.zeros("mlp.c_fc.bias", Role::kUpBias, c.intermediate);
        list.zeros("mlp.c_proj.bias", Role::kDownBias, c.hidden);
      }
    }
    if (c.norm_after) list.norm("post_feedforward_layernorm", Role::kAfter2Weight, Role::kAfter2Bias);
  }
  list.layer(-1, "");
  list.norm("model.norm", Role::kFinalWeight, Role::kFinalBias);
}

void list_neox(const Config& c, Lister& list) {
  list.layer(-1, "gpt_neox.");
  list.normal("embed_in.weight", Role::kTokens, Shape{c.vocabulary, c.hidden}, c.initial_std);
  for (std::int64_t i = 0; i < c.layers; ++i) {
    list.layer(i, "gpt_neox.layers." + std::to_string(i) + ".");
    list.norm("input_layernorm", Role::kNorm1Weight, Role::kNorm1Bias);
    list.normal("attention.query_key_value.weight", Role::kQkvWeight, Shape{3 * c.hidden, c.hidden}, c.initial_std);
    if (c.qkv_bias) list.zeros("attention.query_key_value.bias", Role::kQkvBias, 3 * c.hidden);
    list.normal("attention.dense.weight", Role::kOWeight, Shape{c.hidden, c.hidden}, c.initial_std);
    if (c.o_bias) list.zeros("attention.dense.bias", Role::kOBias, c.hidden);
    list.norm("post_attention_layernorm", Role::kNorm2Weight, Role::kNorm2Bias);
    list.normal("mlp.dense_h_to_4h.weight", Role::kUpWeight, Shape{c.intermediate, c.hidden}, c.initial_std);
    list.zeros("mlp.dense_h_to_4h.bias", Role::kUpBias, c.intermediate);
    list.normal("mlp.dense_4h_to_h.weight", Role::kDownWeight, Shape{c.hidden, c.intermediate}, c.initial_std);
    list.zeros("mlp.dense_4h_to_h.bias", Role::kDownBias, c.hidden);
  }
  list.layer(-1, "");
  list.norm("gpt_neox.final_layer_norm", Role::kFinalWeight, Role::kFinalBias);
}

}  // namespace

std::string head_name(const Config& config) {
  return config.family == Family::kNeox ? "embed_out.weight" : "lm_head.weight";
}

std::vector<ParameterSpec> parameter_specs(const Config& config) {
  Lister list(config);
  switch (config.family) {
    case Family::kGpt2:
      list_gpt2(config, list);
      break;
    case Family::kLlama:
      list_llama(config, list);
      break;
    case Family::kNeox:
      list_neox(config, list);
      break;
  }
  if (!config.tied) {
    list.normal(head_name(config), Role::kHead, Shape{config.vocabulary, config.hidden}, config.initial_std);
  }
  return list.take();
}

}  // namespace braise::model
