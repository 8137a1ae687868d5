// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/gguf_model.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <type_traits>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/model/parameters.h"
#include "stages/shared/weights/gguf.h"
#include "stages/shared/weights/text.h"

namespace braise::model {
namespace {

using nlohmann::json;
using weights::Gguf;
using weights::GgufValue;
using weights::TensorInfo;

constexpr const char* kScaling = "rope_scaling";
constexpr const char* kRopeFactors = "rope_freqs.weight";

/// A key below the architecture's name, and what config.json calls it.
struct Key {
  const char* gguf;
  const char* hugging_face;
  bool needed = false;  ///< though config.json may leave it out
};

const std::vector<Key>& keys_of(const std::string& architecture) {
  static const std::vector<Key> kGpt2{{"context_length", "n_positions", true},
                                      {"embedding_length", "n_embd"},
                                      {"block_count", "n_layer"},
                                      {"feed_forward_length", "n_inner", true},
                                      {"attention.head_count", "n_head"},
                                      {"attention.layer_norm_epsilon", "layer_norm_epsilon", true}};
  static const auto with = [](const Key& epsilon, const std::vector<Key>& more) {
    std::vector<Key> keys{{"context_length", "max_position_embeddings", true},
                          {"embedding_length", "hidden_size"},
                          {"block_count", "num_hidden_layers"},
                          {"feed_forward_length", "intermediate_size"},
                          {"attention.head_count", "num_attention_heads"},
                          {"attention.head_count_kv", "num_key_value_heads"},
                          {"attention.key_length", "head_dim"},
                          {"rope.freq_base", "rope_theta"},
                          epsilon};
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
  };
  static const Key kRmsEpsilon{"attention.layer_norm_rms_epsilon", "rms_norm_eps", true};
  static const Key kWindow{"attention.sliding_window", "sliding_window"};
  static const std::vector<Key> kLlama = with(kRmsEpsilon, {kWindow});
  static const Key kLogitCap{"final_logit_softcapping", "final_logit_softcapping"};
  static const std::vector<Key> kGemma = with(kRmsEpsilon, {});
  static const std::vector<Key> kGemma2 =
      with(kRmsEpsilon, {kWindow, kLogitCap, {"attn_logit_softcapping", "attn_logit_softcapping"}});
  static const std::vector<Key> kGemma3 = with(kRmsEpsilon, {kWindow, kLogitCap});
  static const std::vector<Key> kStarcoder2 = with({"attention.layer_norm_epsilon", "norm_epsilon", true}, {kWindow});
  if (architecture == "gpt2") return kGpt2;
  if (architecture == "gemma") return kGemma;
  if (architecture == "gemma2") return kGemma2;
  if (architecture == "gemma3") return kGemma3;
  return architecture == "starcoder2" ? kStarcoder2 : kLlama;
}

/// Keys of the rotation's scaling, and what config.json's rope_scaling calls them.
constexpr Key kScalingKeys[] = {
    {"rope.scaling.type", "rope_type"},
    {"rope.scaling.factor", "factor"},
    {"rope.scaling.original_context_length", "original_max_position_embeddings"},
    {"rope.scaling.yarn_beta_fast", "beta_fast"},
    {"rope.scaling.yarn_beta_slow", "beta_slow"},
};

/// Keys that are known by one value, at which they change nothing.
const std::map<std::string, json>& neutral_keys() {
  static const std::map<std::string, json> kKeys{
      {"attention.causal", true},        {"attention.clamp_kqv", 0.0},
      {"attention.max_alibi_bias", 0.0}, {"expert_count", 0},
      {"expert_used_count", 0},          {"rope.scaling.attn_factor", 1.0},
      {"use_parallel_residual", false},  {"tensor_data_layout", "Meta AI original pth"},
  };
  return kKeys;
}

/// Beginnings of parameters' names, at the ends and in a layer, and what llama.cpp calls them.
constexpr std::pair<const char*, const char*> kEnds[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"},        {"lm_head", "output"},
    {"transformer.wte", "token_embd"},    {"transformer.wpe", "position_embd"}, {"transformer.ln_f", "output_norm"},
};
constexpr std::pair<const char*, const char*> kInLayer[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"ln_1", "attn_norm"},
    {"attn.c_attn", "attn_qkv"},
    {"attn.c_proj", "attn_output"},
    {"ln_2", "ffn_norm"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},
};

/// The decimal number a float was written as: 1e-5 was rounded to fp32, and is meant.
double decimal(float value) {
  char text[64];
  const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
  double read = value;
  std::from_chars(text, end.ptr, read);
  return read;
}

/// A file's text, which may be anything, as what may stand in a message.
std::string tame(const std::string& text) {
  const std::string quoted = weights::in_quotes(text);
  return quoted == '"' + text + '"' ? text : quoted;
}

json to_json(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> json {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, weights::GgufList>) {
          return "a list";  // which no key that is used may be
        } else if constexpr (std::is_same_v<T, std::string>) {
          return tame(held);
        } else if constexpr (std::is_same_v<T, float>) {
          return decimal(held);
        } else {
          return held;
        }
      },
      value);
}

/// A whole number of what was translated; 0 where there is none.
std::int64_t size_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || !found->is_number_integer() ? 0 : found->get<std::int64_t>();
}

/// Translates metadata to what config.json would say.
class Translation {
 public:
  Translation(const Gguf& gguf, std::vector<std::string>& problems)
      : gguf_(gguf), problems_(problems), architecture_(gguf.metadata.text("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }

  json hugging_face() {
    json object{{"model_type", architecture_ == "gemma3" ? "gemma3_text" : architecture_}};
    for (const Key& key : keys_of(architecture_)) {
      if (const auto value = find(key.gguf)) {
        object[key.hugging_face] = *value;
      } else if (key.needed) {
        problem(key.gguf, "is missing; a number is needed");
      }
    }
    read_tensors(object);
    if (architecture_ != "gpt2") {
      read_heads(object);
      if (architecture_ == "gemma2" || architecture_ == "gemma3") read_scale(object);
      read_window(object);
      read_scaling(object);
    }
    read_neutral();
    for (const auto& [key, value] : gguf_.metadata.values()) {
      if (key.starts_with(architecture_ + ".") && !known_.contains(key)) {
        problems_.push_back(tame(key) + ": is unknown; Braise cannot tell what it asks for");
      }
    }
    return object;
  }

  /// A problem of config.json, in this file's words.
  std::string in_own_words(const std::string& text) const {
    const auto part_of_word = [](char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
      const auto end = static_cast<std::size_t>(
          std::find_if_not(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), part_of_word) - text.begin());
      const std::string word = text.substr(at, end - at);
      const auto found = words_.find(word);
      result += found == words_.end() ? word : found->second;
      at = end;
      if (at < text.size()) result += text[at++];
    }
    return result;
  }

 private:
  void problem(const std::string& key, const std::string& what) {
    problems_.push_back(architecture_ + "." + key + ": " + what);
  }

  std::optional<json> find(const std::string& key) {
    const std::string full = architecture_ + "." + key;
    known_.insert(full);
    const auto found = gguf_.metadata.values().find(full);
    if (found == gguf_.metadata.values().end()) return std::nullopt;
    return to_json(found->second);
  }

  void read_tensors(json& object) {
    const auto has = [&](const std::string& name) { return gguf_.weights.find(name) != nullptr; };
    const TensorInfo* const tokens = gguf_.weights.find("token_embd.weight");
    if (tokens == nullptr || tokens->shape.rank() != 2) {
      problems_.emplace_back("token_embd.weight: is " + (tokens == nullptr ? "missing" : tokens->shape.text()) +
                             "; a matrix with a row for each token is needed");
      object["vocab_size"] = 1;  // so that it is said once
    } else {
      object["vocab_size"] = tokens->shape[0];
      const auto size = find("vocab_size");
      if (size && *size != json(tokens->shape[0])) {
        problem("vocab_size",
                "is " + size->dump() + ", but token_embd.weight has " + std::to_string(tokens->shape[0]) + " rows");
      }
    }
    object["tie_word_embeddings"] = !has("output.weight");
    const bool bias = has("blk.0.attn_q.bias");
    object[architecture_ == "starcoder2" ? "use_bias" : "attention_bias"] = bias;
    object["mlp_bias"] = has("blk.0.ffn_down.bias");
  }

  /// Without a word, heads share the width; and all channels turn.
  void read_heads(json& object) {
    const std::int64_t heads = size_of(object, "num_attention_heads");
    const std::int64_t hidden = size_of(object, "hidden_size");
    if (!object.contains("head_dim") && heads > 0 && hidden > 0 && hidden % heads == 0)
      object["head_dim"] = hidden / heads;
    const std::int64_t head = size_of(object, "head_dim");
    const auto values = find("attention.value_length");
    if (values && head > 0 && *values != json(head)) {
      problem("attention.value_length", "is " + values->dump() + "; Braise computes heads of values as wide as those " +
                                            "of keys, " + std::to_string(head));
    }
    const auto rotary = find("rope.dimension_count");
    if (!rotary || head < 1 || *rotary == json(head)) return;
    // llama.cpp's rows of a partly rotated head are not paired as its rotation pairs them.
    if (!rotary->is_number_integer() || *rotary < 1 || *rotary > head || architecture_ == "llama") {
      problem("rope.dimension_count",
              "is " + rotary->dump() + " of a head's " + std::to_string(head) + " channels; " +
                  (architecture_ == "llama" ? "all of them must turn" : "from 1 to all of them may turn"));
      return;
    }
    object["partial_rotary_factor"] = rotary->get<double>() / static_cast<double>(head);
  }

  /// What llama.cpp takes for a scale that its files do not have: that of the largest models is another.
  void read_scale(json& object) {
    const std::int64_t layers = size_of(object, "num_hidden_layers");
    const std::int64_t heads = size_of(object, "num_attention_heads");
    const bool largest = (architecture_ == "gemma2" && layers == 46) || (architecture_ == "gemma3" && layers == 62);
    const std::int64_t scalar =
        largest && heads > 0 ? size_of(object, "hidden_size") / heads : size_of(object, "head_dim");
    if (scalar > 0) object["query_pre_attn_scalar"] = scalar;
  }

  void read_window(json& object) {
    if (architecture_.starts_with("gemma") && !object.contains("sliding_window")) return;  // then it is the usual one
    const json window = object.value("sliding_window", json(0));
    object["use_sliding_window"] = window != json(0);
    object["max_window_layers"] = 0;
    if (window == json(0)) {
      object["sliding_window"] = nullptr;
    } else if (architecture_ == "llama") {
      object["model_type"] = "mistral";
    }
  }

  void read_scaling(json& object) {
    json scaling = json::object();
    for (const Key& key : kScalingKeys) {
      if (const auto value = find(key.gguf)) scaling[key.hugging_face] = *value;
    }
    find("rope.scaling.finetuned");  // says how weights came to be
    const bool scaled = scaling.value("rope_type", json("none")) != json("none");
    if (!scaled) scaling = json::object();
    if (const auto linear = find("rope.scale_linear"); linear && *linear != json(1.0)) {  // of the first files
      if (scaled) problem("rope.scale_linear", "stands beside rope.scaling.type; one of the two is needed");
      scaling = {{"rope_type", "linear"}, {"factor", *linear}};
    }
    const TensorInfo* const factors = gguf_.weights.find(kRopeFactors);
    if (factors != nullptr && !scaling.empty()) {
      problem("rope.scaling.type", "stands beside the tensor rope_freqs.weight; one of the two is needed");
    } else if (factors != nullptr) {
      scaling = llama3(object);
    }
    if (!scaling.empty()) object[kScaling] = scaling;
  }

  /// The settings of Llama 3.1's rotation, of which files have only what each frequency is divided by.
  json llama3(const json& object) {
    const core::ConstTensorView tensor = gguf_.weights.view(kRopeFactors);
    attention::RopeSettings settings;
    settings.rotary = size_of(object, "head_dim");
    const json base = object.value("rope_theta", json(10000.0));
    settings.base = base.is_number() ? base.get<double>() : 0;
    if (!tensor || tensor.dtype() != core::Dtype::kFloat32 || settings.rotary % 2 != 0 || settings.rotary < 2 ||
        !(settings.base > 1) || tensor.shape() != core::Shape{settings.rotary / 2}) {
      problems_.push_back(std::string(kRopeFactors) + ": is " + gguf_.weights.tensor(kRopeFactors).shape.text() +
                          "; an fp32 number for each two channels that turn is needed");
      return {};
    }
    const std::vector<double> plain = attention::rope_frequencies(settings, 1).radians;
    const float* const factors = tensor.data<float>();
    const std::int64_t count = tensor.elements();
    const float largest = *std::max_element(factors, factors + count);
    if (std::all_of(factors, factors + count, [](float factor) { return factor == 1; })) return json::object();
    attention::Llama3Scaling scaling;
    scaling.factor = decimal(largest);
    for (std::int64_t i = 0; i < count; ++i) {
      if (!(factors[i] > 1 && factors[i] < largest)) continue;
      // A blend, which tells where the ramp is: its share grows from 0 to 1 as the context holds 1 to 4 wavelengths.
      const double share = (1 / static_cast<double>(factors[i]) - 1 / scaling.factor) / (1 - 1 / scaling.factor);
      const double wavelength = 2 * std::acos(-1.0) / plain[static_cast<std::size_t>(i)];
      const double original = std::round(wavelength * (1 + 3 * share));
      if (original >= 1 && original < 1e9) scaling.original_positions = static_cast<std::int64_t>(original);
    }
    bool same = scaling.factor > 1 && std::isfinite(scaling.factor);
    if (same) {
      settings.scaling = scaling;
      const std::vector<double> scaled = attention::rope_frequencies(settings, 1).radians;
      for (std::int64_t i = 0; i < count; ++i) {
        const double factor = plain[static_cast<std::size_t>(i)] / scaled[static_cast<std::size_t>(i)];
        same = same && std::abs(factors[i] - factor) <= 1e-5 * factor;  // they were computed in fp32
      }
    }
    if (!same) {
      problems_.push_back(std::string(kRopeFactors) + ": is not the scaling of Llama 3.1, the only one Braise knows");
      return {};
    }
    return {{"rope_type", "llama3"},
            {"factor", scaling.factor},
            {"low_freq_factor", scaling.low_frequency_factor},
            {"high_freq_factor", scaling.high_frequency_factor},
            {"original_max_position_embeddings", scaling.original_positions}};
  }

  void read_neutral() {
    for (const auto& [key, only] : neutral_keys()) {
      const auto value = find(key);
      if (value && *value != only) {
        problem(key, "is " + value->dump() + ", which Braise cannot compute; only " + only.dump() + " is");
      }
    }
  }

  const Gguf& gguf_;
  std::vector<std::string>& problems_;
  std::string architecture_;
  std::set<std::string> known_;
  std::map<std::string, std::string> words_ = [this] {
    std::map<std::string, std::string> words;
    const auto add = [&](const Key& key) { words.emplace(key.hugging_face, architecture_ + "." + key.gguf); };
    for (const Key& key : keys_of(architecture_)) add(key);
    for (const Key& key : kScalingKeys) add(key);
    words.emplace(kScaling, architecture_ + ".rope.scaling.type");
    return words;
  }();
};

std::string gguf_name(const ParameterSpec& spec) {
  const std::size_t end = spec.name.rfind('.');
  const std::string kind = spec.name.substr(end);  // ".weight"
  std::string name = spec.name.substr(0, end);
  std::span<const std::pair<const char*, const char*>> table(kEnds);
  std::string prefix;
  if (spec.layer >= 0) {
    const std::string number = std::to_string(spec.layer);
    prefix = "blk." + number + ".";
    name = name.substr(name.find("." + number + ".") + number.size() + 2);
    table = kInLayer;
  }
  const auto found = std::ranges::find(table, name, [](const auto& row) { return std::string(row.first); });
  if (name == "post_attention_layernorm" && spec.role == Role::kAfter1Weight) {  // which only some name rightly
    return prefix + "post_attention_norm" + kind;
  }
  core::require(found != table.end(), "open_gguf_model", "a parameter has no name in GGUF files");
  return prefix + found->second + kind;
}

weights::StoredForm form_of(const ParameterSpec& spec, const Config& config, const std::string& architecture) {
  weights::StoredForm form;
  form.name = gguf_name(spec);
  form.transposed = config.family == Family::kGpt2 && spec.layer >= 0 && spec.shape.rank() == 2;
  if (architecture == "llama" && spec.name.find(".q_proj.") != std::string::npos) form.heads = config.heads;
  if (architecture == "llama" && spec.name.find(".k_proj.") != std::string::npos) form.heads = config.kv_heads;
  if (spec.initial == Initial::kOnes) form.added = static_cast<float>(config.norm_offset);
  return form;
}

/// The tensors under the names and in the forms of parameter_specs.
std::vector<TensorInfo> as_hugging_face(const Gguf& gguf, const Config& config, const std::string& architecture,
                                        std::vector<std::string>& problems) {
  std::map<std::string, const ParameterSpec*> wanted;
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  for (const ParameterSpec& spec : specs) {
    const std::string name = gguf_name(spec);
    wanted.emplace(name, &spec);
    const TensorInfo* const found = gguf.weights.find(name);
    if (found == nullptr) {
      problems.push_back(name + ": is missing; it is " + spec.name + " of this model");
      continue;
    }
    const bool transposed = form_of(spec, config, architecture).transposed;
    const core::Shape shape = transposed ? core::Shape{spec.shape[1], spec.shape[0]} : spec.shape;
    if (found->shape != shape) problems.push_back(name + ": is " + found->shape.text() + ", not " + shape.text());
    if (weights::is_integer(found->encoding)) {
      problems.push_back(name + ": is " + found->type + "; a type of floating point is needed");
    }
    if (gguf.weights.find(spec.name) != nullptr) {
      problems.push_back(tame(spec.name) + ": is no name of GGUF files, and " + name + " is there too");
    }
  }
  std::vector<TensorInfo> tensors;
  for (TensorInfo tensor : gguf.weights.tensors()) {
    const auto found = wanted.find(tensor.name);
    if (found != wanted.end()) {
      tensor.stored = form_of(*found->second, config, architecture);
      tensor.name = found->second->name;
      tensor.shape = found->second->shape;
    }
    if (tensor.name != kRopeFactors) tensors.push_back(tensor);
  }
  return tensors;
}

}  // namespace

GgufModel open_gguf_model(const std::filesystem::path& path) {
  static const std::set<std::string> kArchitectures{"gpt2",   "llama",  "qwen2",      "qwen3", "gemma",
                                                    "gemma2", "gemma3", "starcoder2", "olmo2", "phi3"};
  Gguf gguf = weights::open_gguf(path);
  std::vector<std::string> problems;
  Translation translation(gguf, problems);
  const std::string& architecture = translation.architecture();
  if (!kArchitectures.contains(architecture)) {
    problems.push_back("general.architecture: is " + weights::in_quotes(architecture) +
                       "; Braise knows gpt2, llama, qwen2, qwen3, gemma, gemma2, gemma3, starcoder2, olmo2 and phi3");
    throw UnreadableModel(path, problems);
  }
  const json object = translation.hugging_face();
  std::vector<std::string> others;
  const std::optional<Config> config = read_hugging_face(object, others);
  for (const std::string& problem : others) problems.push_back(translation.in_own_words(problem));
  if (!problems.empty()) throw UnreadableModel(path, problems);
  std::vector<TensorInfo> tensors = as_hugging_face(gguf, *config, architecture, problems);
  if (!problems.empty()) throw UnreadableModel(path, problems);
  return {*config, std::move(gguf.weights).renamed(std::move(tensors))};
}

}  // namespace braise::model
