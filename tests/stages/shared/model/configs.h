// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <tuple>

#include "kernels/attention/rope.h"
#include "stages/shared/model/config.h"

namespace braise::test {

/// Whether two rotations turn alike, at least as far as `positions`.
inline bool equal(const std::optional<attention::RopeSettings>& a, const std::optional<attention::RopeSettings>& b,
                  std::int64_t positions) {
  if (!a || !b) return a.has_value() == b.has_value();
  if (a->rotary != b->rotary || a->base != b->base || a->scaling.index() != b->scaling.index()) return false;
  const attention::RopeFrequencies first = attention::rope_frequencies(*a, positions);
  const attention::RopeFrequencies second = attention::rope_frequencies(*b, positions);
  return first.radians == second.radians && first.attention_factor == second.attention_factor;
}

inline bool equal(const model::Config& a, const model::Config& b) {
  const auto fields = [](const model::Config& c) {
    return std::tie(c.model_type, c.family, c.vocabulary, c.layers, c.hidden, c.heads, c.kv_heads, c.head_size,
                    c.intermediate, c.positions, c.norm, c.norm_epsilon, c.norm_offset, c.activation, c.gated,
                    c.qkv_bias, c.o_bias, c.mlp_bias, c.qk_norm, c.qk_norm_whole, c.norm_before, c.norm_after,
                    c.parallel, c.fused, c.qkv_by_head, c.tied, c.window, c.full_layers, c.attention_scale, c.score_cap,
                    c.logit_cap, c.embedding_scale, c.embedding_dropout, c.attention_dropout, c.residual_dropout,
                    c.initial_std);
  };
  return fields(a) == fields(b) && equal(a.rope, b.rope, 4 * a.positions) &&
         equal(a.local_rope, b.local_rope, 4 * a.positions);
}

}  // namespace braise::test
