// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/attention/rope.h"
#include "kernels/core/error.h"

namespace braise::model {

/// How parameters are named and laid out, and how they are initialised.
enum class Family : std::uint8_t {
  kGpt2,   ///< fused c_attn, weights stored inputs x outputs, learned positions
  kLlama,  ///< separate projections, weights stored outputs x inputs, rotary positions
  kNeox,   ///< fused query_key_value, weights stored outputs x inputs, rotary positions
};

enum class Norm : std::uint8_t { kLayer, kRms };

/// A decoder-only transformer, described: every model of all families is this data over one block,
///
///     y = x + o_proj(attention(rope(qk_norm(qkv_proj(norm(x))))))
///     z = y + down_proj(act(gate_proj(norm(y))) up_proj(norm(y)))      or   down_proj(act(up_proj(norm(y))))
///
/// with x + norm(branch(x)) or x + norm(branch(norm(x))) in place of x + branch(norm(x)), as norm_before and norm_after
/// say, and with the second branch of x rather than of y where it is `parallel`.
struct Config {
  std::string model_type;  ///< Hugging Face's: "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "starcoder2",
                           ///< "olmo2", "phi3", "gemma2", "gemma3_text", "gpt_neox", "stablelm"
  Family family = Family::kLlama;
  std::int64_t vocabulary = 0;  ///< V
  std::int64_t layers = 0;
  std::int64_t hidden = 0;        ///< C
  std::int64_t heads = 0;         ///< H
  std::int64_t kv_heads = 0;      ///< G
  std::int64_t head_size = 0;     ///< D; H D need not be C
  std::int64_t intermediate = 0;  ///< F, the width inside of the feed-forward part
  std::int64_t positions = 0;     ///< the longest sequence

  Norm norm = Norm::kRms;
  double norm_epsilon = 1e-5;
  double norm_offset = 0;  ///< the scale of a norm is this + its weight (1: Gemma)
  activation::Activation activation = activation::Activation::kSilu;
  bool gated = true;

  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;        ///< an RMS norm of each head of q and k, before the rotation
  bool qk_norm_whole = false;  ///< it is one norm of all heads together
  bool norm_before = true;     ///< there are norms of what a block's two parts read
  bool norm_after = false;     ///< there are norms of what they add
  bool parallel = false;       ///< the feed-forward part reads what attention reads; with norm_before
  bool fused = false;          ///< q, k and v are one parameter, gate and up another, in checkpoints of Llamas too
  bool qkv_by_head = false;    ///< its rows are q, k and v of the first head, of the second ...; as many of each
  bool tied = false;           ///< the head is the token embedding

  std::optional<attention::RopeSettings> rope;        ///< none: learned positions
  std::optional<attention::RopeSettings> local_rope;  ///< of layers with a window, where they have one of their own
  std::optional<std::int64_t> window;                 ///< of all layers but full_layers
  std::set<std::int64_t> full_layers;                 ///< not all; none without a window
  double attention_scale = 0;                         ///< of scores; usually 1 / sqrt(D)
  double score_cap = 0;                               ///< of scores, by core::soft_cap; 0: none
  double logit_cap = 0;                               ///< of logits
  double embedding_scale = 1;                         ///< of token embeddings (sqrt(C): Gemma)

  double embedding_dropout = 0;
  double attention_dropout = 0;  ///< of weights
  double residual_dropout = 0;   ///< of what a block adds

  double initial_std = 0.02;

  bool has_window(std::int64_t layer) const { return window && !full_layers.contains(layer); }

  /// All parameters, a tied head counted once.
  std::int64_t parameter_count() const;
};

/// The configuration a Hugging Face config.json describes. What Braise cannot compute is refused, never ignored: every
/// problem is added to `problems`, as "key: what is wrong; what would be right", and nothing is returned.
std::optional<Config> read_hugging_face(const nlohmann::json& json, std::vector<std::string>& problems);

/// Files that should be a model's, and tell of none that Braise can compute.
class UnreadableModel : public core::Error {
 public:
  UnreadableModel(const std::filesystem::path& file, const std::vector<std::string>& problems,
                  core::SourceLocation where = core::SourceLocation::current());

  /// Each begins with the file's path.
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::vector<std::string> problems_;
};

/// The same of a file. Errors: UnreadableModel.
Config read_hugging_face(const std::filesystem::path& path);

/// The config.json of a model: what read_hugging_face reads back to the same configuration.
nlohmann::json to_hugging_face(const Config& config);

}  // namespace braise::model
