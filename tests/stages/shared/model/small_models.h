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
  return c;
}

}  // namespace braise::test
