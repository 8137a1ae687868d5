// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/config_names.h"
#include "stages/shared/model/parameters.h"
#include "stages/shared/weights/text.h"

namespace braise::model {
namespace {

using activation::Activation;
using nlohmann::json;
using weights::in_quotes;

constexpr std::int64_t kMostLayers = 1'000;
constexpr std::int64_t kMostSize = std::int64_t{1} << 24;
constexpr double kMostParameters = 1e15;  // what is counted of them stays a number

/// Reads keys of a config.json, and remembers which.
class Reader {
 public:
  Reader(const json& object, std::vector<std::string>& problems) : object_(object), problems_(problems) {}

  void problem(const std::string& key, const std::string& what) { problems_.push_back(key + ": " + what); }

  bool has(const std::string& key) const { return object_.contains(key); }

  /// Null and missing are nearly always the same in these files.
  const json* find(const std::string& key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  std::int64_t size(const std::string& key, std::optional<std::int64_t> otherwise = {}, std::int64_t most = kMostSize) {
    const json* const value = find(key);
    if (value == nullptr && otherwise) return *otherwise;
    if (value == nullptr) {
      problem(key, "is missing; a whole number is needed");
      return 1;
    }
    if (!value->is_number_integer() || value->get<double>() < 1 || value->get<double>() > static_cast<double>(most)) {
      problem(key, "is " + value->dump() + "; a whole number from 1 to " + std::to_string(most) + " is needed");
      return 1;
    }
    return value->get<std::int64_t>();
  }

  double number(const std::string& key, double otherwise, double least, double most) {
    const json* const value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most)) {
      problem(key, "is " + value->dump() + "; a number from " + json(least).dump() + " to " + json(most).dump() +
                       " is needed");
      return otherwise;
    }
    return value->get<double>();
  }

  bool boolean(const std::string& key, bool otherwise) {
    const json* const value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) {
      problem(key, "is " + value->dump() + "; true or false is needed");
      return otherwise;
    }
    return value->get<bool>();
  }

  std::string text(const std::string& key, const std::string& otherwise) {
    const json* const value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) {
      problem(key, "is " + value->dump() + "; a text is needed");
      return otherwise;
    }
    return value->get<std::string>();
  }

  /// A feature of the architecture that Braise has not: it must be off.
  void must_be(const std::string& key, const json& off) {
    const json* const value = find(key);
    if (value != nullptr && *value != off)
      problem(key, "is " + value->dump() + ", which Braise cannot compute; only " + off.dump() + " is");
  }

 private:
  const json& object_;
  std::vector<std::string>& problems_;
};

std::optional<Activation> activation_named(const std::string& name) {
  static const std::map<std::string, Activation> kNames{
      {"gelu", Activation::kGelu},          {"gelu_new", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"silu", Activation::kSilu},          {"swish", Activation::kSilu},
  };
  const auto found = kNames.find(name);
  if (found == kNames.end()) return std::nullopt;
  return found->second;
}

void read_activation(Reader& reader, const std::string& key, const std::string& otherwise, Config& config) {
  const std::string name = reader.text(key, otherwise);
  const auto activation = activation_named(name);
  if (!activation) {
    reader.problem(key, "is " + in_quotes(name) +
                            "; one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu and swish is needed");
  }
  config.activation = activation.value_or(Activation::kSilu);
}

attention::RopeScaling read_scaling(const json& object, std::int64_t positions, std::vector<std::string>& problems) {
  Reader reader(object, problems);
  const std::string type = reader.text("rope_type", reader.text("type", "default"));
  constexpr double kMost = 1e6;
  const double factor = type == "default" ? 1 : reader.number("factor", 1, 1, kMost);
  const std::int64_t original = reader.size("original_max_position_embeddings", positions);
  if (type == "default") return {};
  if (type == "linear") return attention::LinearScaling{factor};
  if (type == "dynamic") return attention::DynamicNtkScaling{factor, positions};
  if (type == "llama3") {
    attention::Llama3Scaling scaling;
    scaling.factor = factor;
    scaling.low_frequency_factor = reader.number("low_freq_factor", 1, 0, kMost);
    scaling.high_frequency_factor = reader.number("high_freq_factor", 4, 0, kMost);
    scaling.original_positions = original;
    return scaling;
  }
  if (type == "yarn") {
    attention::YarnScaling scaling;
    scaling.factor = factor;
    scaling.original_positions = original;
    scaling.beta_fast = reader.number("beta_fast", 32, 0, kMost);
    scaling.beta_slow = reader.number("beta_slow", 1, 0, kMost);
    scaling.whole_channels = reader.boolean("truncate", true);
    if (reader.find("attention_factor") != nullptr)
      scaling.attention_factor = reader.number("attention_factor", 1, 0, kMost);
    if (reader.find("mscale") != nullptr) scaling.mscale = reader.number("mscale", 1, 0, kMost);
    if (reader.find("mscale_all_dim") != nullptr) scaling.mscale_all = reader.number("mscale_all_dim", 1, 0, kMost);
    return scaling;
  }
  problems.push_back("rope_scaling: " + in_quotes(type) +
                     " is unknown; one of default, linear, dynamic, yarn and llama3 is needed");
  return {};
}

void read_gpt2(Reader& reader, Config& config) {
  config.family = Family::kGpt2;
  config.norm = Norm::kLayer;
  config.gated = false;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  config.hidden = reader.size("n_embd");
  config.layers = reader.size("n_layer", {}, kMostLayers);
  config.heads = config.kv_heads = reader.size("n_head");
  config.positions = reader.size("n_positions", reader.find("n_ctx") != nullptr ? reader.size("n_ctx") : 1024);
  config.intermediate = reader.size("n_inner", 4 * config.hidden);
  config.norm_epsilon = reader.number("layer_norm_epsilon", 1e-5, 1e-12, 1);
  config.tied = reader.boolean("tie_word_embeddings", true);
  config.embedding_dropout = reader.number("embd_pdrop", 0.1, 0, 0.999);
  config.attention_dropout = reader.number("attn_pdrop", 0.1, 0, 0.999);
  config.residual_dropout = reader.number("resid_pdrop", 0.1, 0, 0.999);
  read_activation(reader, "activation_function", "gelu_new", config);
  reader.must_be("scale_attn_by_inverse_layer_idx", false);
  reader.must_be("scale_attn_weights", true);
  reader.must_be("add_cross_attention", false);
  if (config.hidden % config.heads != 0) {
    reader.problem("n_head", "is " + std::to_string(config.heads) + ", which does not divide n_embd " +
                                 std::to_string(config.hidden));
  }
  config.head_size = std::max<std::int64_t>(1, config.hidden / config.heads);
}

/// The layers that a window does not bind, of a file that does not list them; nothing where there is no window.
std::optional<std::set<std::int64_t>> unlisted_full_layers(Reader& reader, const Config& config) {
  const std::string& type = config.model_type;
  std::set<std::int64_t> full;
  const auto add = [&](std::int64_t layer) { full.insert(layer); };
  if (type.starts_with("qwen")) {  // these say whether, and from which layer on
    if (!reader.boolean("use_sliding_window", false)) return std::nullopt;
    const json* const first = reader.find("max_window_layers");
    const std::int64_t from = first != nullptr && *first == 0 ? 0 : reader.size("max_window_layers", 28);
    for (std::int64_t layer = 0; layer < std::min(from, config.layers); ++layer) add(layer);
  } else if (type == "gemma2") {
    for (std::int64_t layer = 1; layer < config.layers; layer += 2) add(layer);
  } else if (type == "gemma3_text") {
    const std::int64_t period = reader.size("sliding_window_pattern", reader.size("_sliding_window_pattern", 6));
    for (std::int64_t layer = period - 1; layer < config.layers; layer += period) add(layer);
  } else if (type != "mistral" && type != "starcoder2" && type != "phi3") {
    return std::nullopt;
  }
  return full;
}

void read_window(Reader& reader, Config& config) {
  std::optional<std::set<std::int64_t>> full = unlisted_full_layers(reader, config);
  if (!full) {
    const json* const types = reader.find("layer_types");
    const bool asks = types != nullptr && *types != json(static_cast<std::size_t>(config.layers), "full_attention");
    if (asks && !config.model_type.starts_with("qwen")) {
      reader.problem("layer_types", "asks for layers with a window, which " + config.model_type + " has not");
    }
    return;
  }
  if (const json* const types = reader.find("layer_types")) {
    full->clear();
    if (!types->is_array() || std::ssize(*types) != config.layers) {
      return reader.problem("layer_types", "is " + types->dump() + "; a list of the types of all " +
                                               std::to_string(config.layers) + " layers is needed");
    }
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      const json& kind = (*types)[static_cast<std::size_t>(layer)];
      if (kind == "full_attention") {
        full->insert(layer);
      } else if (kind != "sliding_attention") {
        reader.problem("layer_types", "has " + kind.dump() +
                                          ", which Braise cannot compute; full_attention and sliding_attention are");
      }
    }
  }
  if (std::ssize(*full) == config.layers) return;
  // Null is no window, but for some a missing key is one of 4096.
  const bool usual = config.model_type == "mistral" || config.model_type.starts_with("gemma");
  if (reader.find("sliding_window") != nullptr) {
    config.window = reader.size("sliding_window");
  } else if (usual && !reader.has("sliding_window")) {
    config.window = 4096;
  }
  if (config.window) config.full_layers = std::move(*full);
}

/// The rotation that an object describes, with the keys of `outer` where it does not say.
attention::RopeSettings read_rope(const json& turning, Reader& with_base, const std::string& base_key, double base,
                                  double part, const Config& config, std::vector<std::string>& problems) {
  attention::RopeSettings rope;
  rope.base = with_base.number(base_key, base, 1, 1e12);
  rope.rotary = static_cast<std::int64_t>(part * static_cast<double>(config.head_size));
  if (rope.rotary % 2 != 0) {
    problems.push_back("head_dim: an even number of channels must turn, not " + std::to_string(rope.rotary));
  }
  rope.scaling = read_scaling(turning, config.positions, problems);
  return rope;
}

/// `base_key`, `part_key`, `part`: what the architecture calls the base and the turning part of a head.
void read_ropes(const json& object, Reader& reader, Config& config, const std::string& base_key,
                const std::string& part_key, double part, std::vector<std::string>& problems) {
  const bool gemma3 = config.model_type == "gemma3_text";
  const double base = gemma3 ? 1e6 : 10000;
  // Transformers 5 writes one object in place of the base and rope_scaling, or one for each kind of layers.
  const bool together = reader.find("rope_parameters") != nullptr;
  const std::string key = together ? "rope_parameters" : "rope_scaling";
  json turning = json::object();
  if (const json* const found = reader.find(key)) {
    if (found->is_object()) {
      turning = *found;
    } else {
      reader.problem(key, "is " + found->dump() + "; an object is needed");
    }
  }
  const double old_part = reader.number(part_key, part, 0, 1);
  const auto in = [&](const json& its) {
    Reader inner(its, problems);
    return read_rope(its, inner, "rope_theta", base, inner.number("partial_rotary_factor", old_part, 0, 1), config,
                     problems);
  };
  if (together && turning.contains("full_attention")) {
    config.rope = in(turning.at("full_attention"));
    if (config.window) config.local_rope = in(turning.value("sliding_attention", json::object()));
    return;
  }
  if (together) {
    config.rope = in(turning);
  } else {
    Reader outer(object, problems);
    config.rope = read_rope(turning, outer, base_key, base, old_part, config, problems);
  }
  if (gemma3 && config.window) {
    config.local_rope = config.rope;
    config.local_rope->base = reader.number("rope_local_base_freq", 10000, 1, 1e12);
    config.local_rope->scaling = {};
  }
}

void read_neox(const json& object, Reader& reader, Config& config, std::vector<std::string>& problems) {
  config.family = Family::kNeox;
  config.norm = Norm::kLayer;
  config.gated = false;
  config.fused = config.qkv_by_head = true;
  config.hidden = reader.size("hidden_size");
  config.layers = reader.size("num_hidden_layers", {}, kMostLayers);
  config.heads = config.kv_heads = reader.size("num_attention_heads");
  config.intermediate = reader.size("intermediate_size", 4 * config.hidden);
  config.positions = reader.size("max_position_embeddings", 2048);
  config.norm_epsilon = reader.number("layer_norm_eps", 1e-5, 1e-12, 1);
  config.qkv_bias = config.o_bias = reader.boolean("attention_bias", true);
  config.mlp_bias = true;
  config.parallel = reader.boolean("use_parallel_residual", true);
  config.tied = reader.boolean("tie_word_embeddings", false);
  config.attention_dropout = reader.number("attention_dropout", 0, 0, 0.999);
  config.embedding_dropout = config.residual_dropout = reader.number("hidden_dropout", 0, 0, 0.999);
  read_activation(reader, "hidden_act", "gelu", config);
  if (config.hidden % config.heads != 0) {
    reader.problem("num_attention_heads", "is " + std::to_string(config.heads) +
                                              ", which does not divide hidden_size " + std::to_string(config.hidden));
  }
  config.head_size = std::max<std::int64_t>(1, config.hidden / config.heads);
  read_ropes(object, reader, config, "rotary_emb_base", "rotary_pct", 0.25, problems);
}

/// A cap of scores or logits: null is none, a missing key what the architecture takes.
double read_cap(Reader& reader, const std::string& key, double otherwise) {
  if (reader.find(key) != nullptr) return reader.number(key, 0, 1e-3, 1e6);
  return reader.has(key) ? 0 : otherwise;
}

void read_llama(const json& object, Reader& reader, Config& config, std::vector<std::string>& problems) {
  const std::string& type = config.model_type;
  const bool starcoder = type == "starcoder2";
  const bool gemma = type.starts_with("gemma");
  const bool olmo = type == "olmo2";
  const bool phi = type == "phi3";
  const bool stable = type == "stablelm";
  config.family = Family::kLlama;
  config.hidden = reader.size("hidden_size");
  config.layers = reader.size("num_hidden_layers", {}, kMostLayers);
  config.heads = reader.size("num_attention_heads");
  config.kv_heads = reader.size("num_key_value_heads", config.heads);
  config.intermediate = reader.size("intermediate_size");
  config.positions = reader.size("max_position_embeddings", phi || stable ? 4096 : 2048);
  if (reader.find("head_dim") == nullptr && config.hidden % config.heads != 0) {
    reader.problem("num_attention_heads", "is " + std::to_string(config.heads) +
                                              ", which does not divide hidden_size " + std::to_string(config.hidden) +
                                              "; or give head_dim");
  }
  const std::int64_t usual = type == "qwen3" ? 128
                             : gemma         ? 256
                                             : std::max<std::int64_t>(1, config.hidden / config.heads);
  config.head_size = reader.size("head_dim", usual, 256);
  config.norm_epsilon = reader.number(starcoder ? "norm_epsilon"
                                      : stable  ? "layer_norm_eps"
                                                : "rms_norm_eps",
                                      starcoder || olmo || phi || stable ? 1e-5 : 1e-6, 1e-12, 1);
  config.norm = starcoder || stable ? Norm::kLayer : Norm::kRms;
  config.gated = !starcoder;
  const bool bias = starcoder && reader.boolean("use_bias", true);
  if (phi) reader.must_be("attention_bias", false);
  if (phi || olmo) reader.must_be("mlp_bias", false);
  if (stable) {
    for (const char* const key : {"attention_bias", "mlp_bias", "use_parallel_residual", "qk_layernorm"}) {
      reader.must_be(key, false);
    }
    reader.must_be("hidden_dropout", 0.0);
  }
  config.qkv_bias = type == "qwen2" || bias || reader.boolean(stable ? "use_qkv_bias" : "attention_bias", false);
  config.o_bias = type != "qwen2" && (bias || reader.boolean("attention_bias", false));
  config.mlp_bias = bias || reader.boolean("mlp_bias", false);
  config.qk_norm = type == "qwen3" || type == "gemma3_text" || olmo;
  config.qk_norm_whole = olmo;
  config.norm_before = !olmo;
  config.norm_after = olmo || (gemma && type != "gemma");
  config.fused = phi;
  config.tied = reader.boolean("tie_word_embeddings", gemma || starcoder);
  config.attention_dropout = reader.number("attention_dropout", 0, 0, 0.999);
  if (starcoder || phi) {
    config.residual_dropout = reader.number(starcoder ? "residual_dropout" : "resid_pdrop", 0, 0, 0.999);
  }
  if (phi) reader.must_be("embd_pdrop", 0.0);
  config.embedding_dropout = starcoder ? reader.number("embedding_dropout", 0, 0, 0.999) : 0;
  if (gemma) {
    config.norm_offset = 1;
    config.embedding_scale = std::sqrt(static_cast<double>(config.hidden));
    // The first files say "gelu" in hidden_act and mean the tanh form, which later ones write.
    const std::string name = type == "gemma" ? reader.text("hidden_act", "gelu_pytorch_tanh") : "gelu";
    if (name != "gelu" && name != "gelu_pytorch_tanh") {
      reader.problem("hidden_act", "is " + in_quotes(name) + "; gelu_pytorch_tanh is needed");
    }
    read_activation(reader, "hidden_activation", "gelu_pytorch_tanh", config);
    if (type != "gemma") {
      const bool second = type == "gemma2";
      config.attention_scale = 1 / std::sqrt(reader.number("query_pre_attn_scalar", 256, 1, 1e6));
      config.score_cap = read_cap(reader, "attn_logit_softcapping", second ? 50 : 0);
      config.logit_cap = read_cap(reader, "final_logit_softcapping", second ? 30 : 0);
      reader.must_be("use_bidirectional_attention", false);
    }
  } else {
    read_activation(reader, "hidden_act", starcoder ? "gelu_pytorch_tanh" : "silu", config);
  }
  read_window(reader, config);
  read_ropes(object, reader, config, "rope_theta", "partial_rotary_factor", stable ? 0.25 : 1, problems);
  reader.must_be("pretraining_tp", 1);
}

std::string text_of(const std::filesystem::path& file, const std::vector<std::string>& problems) {
  std::string text = "a model that cannot be read:";
  for (const std::string& problem : problems) text += "\n  " + file.string() + ": " + problem;
  return text;
}

}  // namespace

std::int64_t Config::parameter_count() const {
  std::int64_t count = 0;
  for (const ParameterSpec& parameter : parameter_specs(*this)) count += parameter.shape.elements();
  return count;
}

std::optional<Config> read_hugging_face(const json& object, std::vector<std::string>& problems) {
  const std::size_t before = problems.size();
  if (!object.is_object()) {
    problems.emplace_back("the file: is no JSON object");
    return std::nullopt;
  }
  Reader reader(object, problems);
  Config config;
  config.model_type = reader.text("model_type", "");
  const auto& classes = class_names();
  if (!classes.contains(config.model_type)) {
    std::string known;
    for (const auto& [type, name] : classes) known += (known.empty() ? "" : ", ") + type;
    reader.problem("model_type", "is " + in_quotes(config.model_type) + "; Braise knows " + known);
    return std::nullopt;
  }
  config.vocabulary = reader.size("vocab_size");
  config.initial_std = reader.number("initializer_range", 0.02, 0, 10);
  if (config.model_type == "gpt2") {
    read_gpt2(reader, config);
  } else if (config.model_type == "gpt_neox") {
    read_neox(object, reader, config, problems);
  } else {
    read_llama(object, reader, config, problems);
  }
  if (config.attention_scale == 0) config.attention_scale = 1 / std::sqrt(static_cast<double>(config.head_size));
  if (config.heads % config.kv_heads != 0) {
    reader.problem("num_key_value_heads", "is " + std::to_string(config.kv_heads) +
                                              ", which does not divide num_attention_heads " +
                                              std::to_string(config.heads));
  }
  if (problems.size() > before) return std::nullopt;
  double parameters = 0;
  for (const ParameterSpec& parameter : parameter_specs(config)) {
    parameters += static_cast<double>(parameter.shape.elements());
  }
  if (parameters > kMostParameters) {
    reader.problem(config.family == Family::kGpt2 ? "n_embd" : "hidden_size",
                   "is " + std::to_string(config.hidden) + ", which with the other sizes makes " +
                       json(parameters).dump() + " parameters; at most " + json(kMostParameters).dump() + " are taken");
    return std::nullopt;
  }
  return config;
}

UnreadableModel::UnreadableModel(const std::filesystem::path& file, const std::vector<std::string>& problems,
                                 core::SourceLocation where)
    : Error(text_of(file, problems), where) {
  for (const std::string& problem : problems) problems_.push_back(file.string() + ": " + problem);
}

Config read_hugging_face(const std::filesystem::path& path) {
  const json object = json::parse(io::read_file(path), nullptr, false);
  if (object.is_discarded()) throw UnreadableModel(path, {"is no JSON; a config.json of Hugging Face is needed"});
  std::vector<std::string> problems;
  const std::optional<Config> config = read_hugging_face(object, problems);
  if (!config) throw UnreadableModel(path, problems);
  return *config;
}

}  // namespace braise::model
