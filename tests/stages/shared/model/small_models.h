// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "stages/shared/model/config.h"

/// Models so small that tests can look at every number.
namespace braise::test {

inline model::Config small_gpt2() {
  model::Config c;
  c.model_type = "gpt2";
  c.family = model::Family::kGpt2;
  c.vocabulary = 31;
  c.layers = 3;
  c.hidden = 24;
  c.heads = c.kv_heads = 3;
  c.head_size = 8;
  c.intermediate = 40;
  c.positions = 20;
  c.norm = model::Norm::kLayer;
  c.activation = activation::Activation::kGeluTanh;
  c.gated = false;
  c.qkv_bias = c.o_bias = c.mlp_bias = true;
  c.tied = true;
  c.attention_scale = 1 / std::sqrt(8.0);
  c.initial_std = 0.3;  // large enough that every part matters
  return c;
}

inline model::Config small_llama() {
  model::Config c;
  c.model_type = "llama";
  c.vocabulary = 29;
  c.layers = 3;
  c.hidden = 20;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_size = 6;
  c.intermediate = 28;
  c.positions = 64;
  c.rope = attention::RopeSettings{6, 10000, {}};
  c.attention_scale = 1 / std::sqrt(6.0);
  c.initial_std = 0.3;
  return c;
}

/// With everything a Llama-like model may have.
inline model::Config small_everything() {
  model::Config c = small_llama();
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tied = true;
  c.norm_offset = 1;
  c.embedding_scale = 4;
  c.window = 5;
  c.activation = activation::Activation::kGelu;
  return c;
}

/// With norms after what they would else come before.
inline model::Config small_olmo() {
  model::Config c = small_llama();
  c.model_type = "olmo2";
  c.qk_norm = c.qk_norm_whole = c.norm_after = true;
  c.norm_before = false;
  return c;
}

/// With norms on both sides of each part, caps, and a window in every second layer.
inline model::Config small_gemma2() {
  model::Config c = small_llama();
  c.model_type = "gemma2";
  c.norm_after = c.tied = true;
  c.norm_offset = 1;
  c.embedding_scale = 4;
  c.activation = activation::Activation::kGeluTanh;
  c.window = 4;
  c.full_layers = {1};
  c.attention_scale = 0.5;
  c.score_cap = 3;
  c.logit_cap = 2;
  return c;
}

/// With a rotation of its own in layers that have a window.
inline model::Config small_gemma3() {
  model::Config c = small_gemma2();
  c.model_type = "gemma3_text";
  c.qk_norm = true;
  c.score_cap = c.logit_cap = 0;
  c.rope = attention::RopeSettings{6, 3000, attention::LinearScaling{2}};
  c.local_rope = attention::RopeSettings{6, 20, {}};
  c.full_layers = {2};
  return c;
}

/// With two parts side by side.
inline model::Config small_neox() {
  model::Config c = small_gpt2();
  c.model_type = "gpt_neox";
  c.family = model::Family::kNeox;
  c.fused = c.qkv_by_head = c.parallel = true;
  c.tied = false;
  c.activation = activation::Activation::kGelu;
  c.rope = attention::RopeSettings{4, 100, {}};
  return c;
}

}  // namespace braise::test
