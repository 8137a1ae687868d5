// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/parameters.h"

namespace braise::model {
namespace {

using activation::Activation;
using nlohmann::json;

constexpr std::int64_t kMostLayers = 1'000;
constexpr std::int64_t kMostSize = std::int64_t{1} << 24;

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

std::string name_of(Activation activation) {
  return activation == Activation::kGelu ? "gelu" : activation == Activation::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
}

void read_activation(Reader& reader, const std::string& key, const std::string& otherwise, Config& config) {
  const std::string name = reader.text(key, otherwise);
  const auto activation = activation_named(name);
  if (!activation) {
    reader.problem(
        key, "is \"" + name + "\"; one of gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu and swish is needed");
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
  problems.push_back("rope_scaling: \"" + type +
                     "\" is unknown; one of default, linear, dynamic, yarn and llama3 is needed");
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

/// A window is one for all layers, or none.
void read_window(Reader& reader, Config& config) {
  const std::string& type = config.model_type;
  const bool asks = type.starts_with("qwen");  // these say whether, and from which layer on
  bool windowed = type == "mistral" || type == "starcoder2" || type == "phi3" ||
                  (asks && reader.boolean("use_sliding_window", false));
  if (windowed && asks) {
    const json* const first = reader.find("max_window_layers");
    const json usual = 28;
    const json& from = first != nullptr ? *first : usual;
    if (from.is_number_integer() && from.get<std::int64_t>() >= config.layers) {
      windowed = false;
    } else if (from != json(0)) {
      reader.problem("max_window_layers", "is " + from.dump() + " of " + std::to_string(config.layers) +
                                              " layers; Braise computes a window in all layers (0) or in none");
    }
  }
  if (const json* const types = reader.find("layer_types")) {
    const auto all = [&](const char* kind) { return *types == json(static_cast<std::size_t>(config.layers), kind); };
    if (all("full_attention")) {
      windowed = false;
    } else if (!all("sliding_attention")) {
      reader.problem("layer_types",
                     "asks for layers of several kinds; Braise computes a window in all layers or in none");
    }
  }
  if (!windowed) return;
  // Null is no window, but for mistral a missing key is one of 4096.
  if (reader.find("sliding_window") != nullptr) {
    config.window = reader.size("sliding_window");
  } else if (type == "mistral" && !reader.has("sliding_window")) {
    config.window = 4096;
  }
}

void read_llama(const json& object, Reader& reader, Config& config, std::vector<std::string>& problems) {
  const std::string& type = config.model_type;
  const bool starcoder = type == "starcoder2";
  const bool gemma = type == "gemma";
  const bool olmo = type == "olmo2";
  const bool phi = type == "phi3";
  config.family = Family::kLlama;
  config.hidden = reader.size("hidden_size");
  config.layers = reader.size("num_hidden_layers", {}, kMostLayers);
  config.heads = reader.size("num_attention_heads");
  config.kv_heads = reader.size("num_key_value_heads", config.heads);
  config.intermediate = reader.size("intermediate_size");
  config.positions = reader.size("max_position_embeddings", phi ? 4096 : 2048);
  if (reader.find("head_dim") == nullptr && config.hidden % config.heads != 0) {
    reader.problem("num_attention_heads", "is " + std::to_string(config.heads) +
                                              ", which does not divide hidden_size " + std::to_string(config.hidden) +
                                              "; or give head_dim");
  }
  const std::int64_t usual = type == "qwen3" ? 128
                             : gemma         ? 256
                                             : std::max<std::int64_t>(1, config.hidden / config.heads);
  config.head_size = reader.size("head_dim", usual, 256);
  config.norm_epsilon =
      reader.number(starcoder ? "norm_epsilon" : "rms_norm_eps", starcoder || olmo || phi ? 1e-5 : 1e-6, 1e-12, 1);
  config.norm = starcoder ? Norm::kLayer : Norm::kRms;
  config.gated = !starcoder;
  const bool bias = starcoder && reader.boolean("use_bias", true);
  if (phi) reader.must_be("attention_bias", false);
  if (phi || olmo) reader.must_be("mlp_bias", false);
  config.qkv_bias = type == "qwen2" || bias || reader.boolean("attention_bias", false);
  config.o_bias = type != "qwen2" && (bias || reader.boolean("attention_bias", false));
  config.mlp_bias = bias || reader.boolean("mlp_bias", false);
  config.qk_norm = type == "qwen3" || olmo;
  config.qk_norm_whole = olmo;
  config.norm_after = olmo;
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
    const std::string name = reader.text("hidden_act", "gelu_pytorch_tanh");
    if (name != "gelu" && name != "gelu_pytorch_tanh") {
      reader.problem("hidden_act", "is \"" + name + "\"; gelu_pytorch_tanh is needed");
    }
    read_activation(reader, "hidden_activation", "gelu_pytorch_tanh", config);
  } else {
    read_activation(reader, "hidden_act", starcoder ? "gelu_pytorch_tanh" : "silu", config);
  }
  read_window(reader, config);
  attention::RopeSettings rope;
  // Transformers 5 writes one object in place of rope_theta and rope_scaling.
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
  Reader outer(together ? turning : object, problems);
  rope.base = outer.number("rope_theta", 10000, 1, 1e12);
  const double part = outer.number("partial_rotary_factor", reader.number("partial_rotary_factor", 1, 0, 1), 0, 1);
  rope.rotary = static_cast<std::int64_t>(part * static_cast<double>(config.head_size));
  if (rope.rotary % 2 != 0) {
    reader.problem("head_dim", "an even number of channels must turn, not " + std::to_string(rope.rotary));
  }
  rope.scaling = read_scaling(turning, config.positions, problems);
  config.rope = rope;
  reader.must_be("pretraining_tp", 1);
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
  static const std::set<std::string> kLlamas{"llama", "mistral",    "qwen2", "qwen3",
                                             "gemma", "starcoder2", "olmo2", "phi3"};
  if (config.model_type != "gpt2" && !kLlamas.contains(config.model_type)) {
    reader.problem("model_type",
                   "is \"" + config.model_type +
                       "\"; Braise knows gpt2, llama, mistral, qwen2, qwen3, gemma, starcoder2, olmo2 and "
                       "phi3");
    return std::nullopt;
  }
  config.vocabulary = reader.size("vocab_size");
  config.initial_std = reader.number("initializer_range", 0.02, 0, 10);
  if (config.model_type == "gpt2") {
    read_gpt2(reader, config);
  } else {
    read_llama(object, reader, config, problems);
  }
  config.attention_scale = 1 / std::sqrt(static_cast<double>(config.head_size));
  if (config.heads % config.kv_heads != 0) {
    reader.problem("num_key_value_heads", "is " + std::to_string(config.kv_heads) +
                                              ", which does not divide num_attention_heads " +
                                              std::to_string(config.heads));
  }
  if (problems.size() > before) return std::nullopt;
  return config;
}

Config read_hugging_face(const std::filesystem::path& path) {
  const json object = json::parse(io::read_file(path), nullptr, false);
  if (object.is_discarded()) throw core::Error(path.string() + ": is no JSON; a config.json of Hugging Face is needed");
  std::vector<std::string> problems;
  const std::optional<Config> config = read_hugging_face(object, problems);
  if (config) return *config;
  std::string text;
  for (const std::string& problem : problems) text += "\n  " + path.string() + ": " + problem;
  throw core::Error("a model that cannot be read:" + text);
}

json to_hugging_face(const Config& config) {
  static const std::map<std::string, std::string> kClasses{{"gpt2", "GPT2LMHeadModel"},
                                                           {"llama", "LlamaForCausalLM"},
                                                           {"mistral", "MistralForCausalLM"},
                                                           {"qwen2", "Qwen2ForCausalLM"},
                                                           {"qwen3", "Qwen3ForCausalLM"},
                                                           {"gemma", "GemmaForCausalLM"},
                                                           {"starcoder2", "Starcoder2ForCausalLM"},
                                                           {"olmo2", "Olmo2ForCausalLM"},
                                                           {"phi3", "Phi3ForCausalLM"}};
  json object{{"architectures", {kClasses.at(config.model_type)}},
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
  const bool starcoder = config.model_type == "starcoder2";
  object.update({{"hidden_size", config.hidden},
                 {"intermediate_size", config.intermediate},
                 {"num_hidden_layers", config.layers},
                 {"num_attention_heads", config.heads},
                 {"num_key_value_heads", config.kv_heads},
                 {"head_dim", config.head_size},
                 {"max_position_embeddings", config.positions},
                 {starcoder ? "norm_epsilon" : "rms_norm_eps", config.norm_epsilon},
                 {config.model_type == "gemma" ? "hidden_activation" : "hidden_act", name_of(config.activation)},
                 {"rope_theta", config.rope->base},
                 {"attention_dropout", config.attention_dropout}});
  if (starcoder) {
    object.update({{"use_bias", config.qkv_bias},
                   {"residual_dropout", config.residual_dropout},
                   {"embedding_dropout", config.embedding_dropout}});
  } else if (config.model_type == "phi3") {
    object["resid_pdrop"] = config.residual_dropout;
    object["embd_pdrop"] = 0.0;
  } else if (config.model_type != "qwen2") {
    object["attention_bias"] = config.qkv_bias;
    if (config.model_type != "olmo2") object["mlp_bias"] = config.mlp_bias;
  }
  if (config.window) {
    object["sliding_window"] = *config.window;
    object["use_sliding_window"] = true;
    if (config.model_type.starts_with("qwen")) object["max_window_layers"] = 0;
  }
  if (config.rope->rotary != config.head_size) {
    object["partial_rotary_factor"] = static_cast<double>(config.rope->rotary) / static_cast<double>(config.head_size);
  }
  json scaling;
  if (const auto* const linear = std::get_if<attention::LinearScaling>(&config.rope->scaling)) {
    scaling = {{"rope_type", "linear"}, {"factor", linear->factor}};
  } else if (const auto* const ntk = std::get_if<attention::DynamicNtkScaling>(&config.rope->scaling)) {
    scaling = {{"rope_type", "dynamic"}, {"factor", ntk->factor}};
  } else if (const auto* const llama3 = std::get_if<attention::Llama3Scaling>(&config.rope->scaling)) {
    scaling = {{"rope_type", "llama3"},
               {"factor", llama3->factor},
               {"low_freq_factor", llama3->low_frequency_factor},
               {"high_freq_factor", llama3->high_frequency_factor},
               {"original_max_position_embeddings", llama3->original_positions}};
  } else if (const auto* const yarn = std::get_if<attention::YarnScaling>(&config.rope->scaling)) {
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
  return object;
}

}  // namespace braise::model
