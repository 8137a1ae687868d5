// SPDX-License-Identifier: Apache-2.0
// The project's own golden models, written as llama.cpp's conversion would, and what is wrong with files.
#include "stages/shared/model/gguf_model.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/kernels/reference/quant.h"
#include "tests/stages/shared/model/golden.h"
#include "tests/support/weight_files.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using Catch::Contains;
using model::Batch;
using model::Config;
using model::Decoder;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::uint32_t kUint32 = 4, kFloat32 = 6, kBool = 7, kText = 8;

struct Matrix {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};

/// A GGUF file in the making: its metadata by type and bytes, and its tensors.
struct Model {
  void integer(const std::string& key, std::int64_t value) {
    metadata[key] = {kUint32, little(static_cast<std::uint32_t>(value))};
  }
  void number(const std::string& key, double value) { metadata[key] = {kFloat32, little(static_cast<float>(value))}; }
  void text(const std::string& key, const std::string& value) { metadata[key] = {kText, GgufBuilder::text(value)}; }

  fs::path write(const TemporaryFolder& folder) const {
    GgufBuilder builder;
    for (const auto& [key, value] : metadata) builder.value(key, value.first, value.second);
    for (const auto& [name, matrix] : tensors) {
      std::string bytes;
      for (const double value : matrix.values) bytes += little(static_cast<float>(value));
      builder.tensor(name, std::vector<std::uint64_t>(matrix.shape.rbegin(), matrix.shape.rend()), 0, bytes);
    }
    return folder.write("model.gguf", builder.bytes());
  }

  std::map<std::string, std::pair<std::uint32_t, std::string>> metadata;
  std::map<std::string, Matrix> tensors;
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// What llama.cpp calls a weight of Hugging Face's.
std::string gguf_name(std::string name) {
  const std::vector<std::pair<std::string, std::string>> words{
      {"model.embed_tokens.", "token_embd."},
      {"transformer.wte.", "token_embd."},
      {"transformer.wpe.", "position_embd."},
      {"model.norm.", "output_norm."},
      {"transformer.ln_f.", "output_norm."},
      {"lm_head.", "output."},
      {"model.layers.", "blk."},
      {"transformer.h.", "blk."},
      {".input_layernorm.", ".attn_norm."},
      {".ln_1.", ".attn_norm."},
      {".post_attention_layernorm.", ".ffn_norm."},
      {".ln_2.", ".ffn_norm."},
      {".self_attn.q_proj.", ".attn_q."},
      {".self_attn.k_proj.", ".attn_k."},
      {".self_attn.v_proj.", ".attn_v."},
      {".self_attn.o_proj.", ".attn_output."},
      {".self_attn.q_norm.", ".attn_q_norm."},
      {".self_attn.k_norm.", ".attn_k_norm."},
      {".attn.c_attn.", ".attn_qkv."},
      {".attn.c_proj.", ".attn_output."},
      {".self_attn.qkv_proj.", ".attn_qkv."},
      {".mlp.gate_up_proj.", ".ffn_up."},
      {".post_feedforward_layernorm.", ".post_ffw_norm."},
      {".pre_feedforward_layernorm.", ".ffn_norm."},
      {".mlp.gate_proj.", ".ffn_gate."},
      {".mlp.up_proj.", ".ffn_up."},
      {".mlp.down_proj.", ".ffn_down."},
      {".mlp.c_fc.", ".ffn_up."},
      {".mlp.c_proj.", ".ffn_down."},
  };
  for (const auto& [from, to] : words) name = replaced(name, from, to);
  return name;
}

/// Rows of heads with the two halves' rows in turn.
Matrix in_turn(const Matrix& matrix, std::int64_t heads) {
  Matrix result = matrix;
  const std::size_t columns = matrix.shape.size() == 1 ? 1 : static_cast<std::size_t>(matrix.shape[1]);
  const std::size_t half = static_cast<std::size_t>(matrix.shape[0] / heads / 2);
  std::size_t to = 0;
  for (std::size_t head = 0; head < static_cast<std::size_t>(heads); ++head) {
    for (std::size_t i = 0; i < half; ++i) {
      for (const std::size_t row : {head * 2 * half + i, head * 2 * half + half + i}) {
        for (std::size_t k = 0; k < columns; ++k) result.values[to++] = matrix.values[row * columns + k];
      }
    }
  }
  return result;
}

Matrix transposed(const Matrix& matrix) {
  const auto rows = static_cast<std::size_t>(matrix.shape[0]);
  const auto columns = static_cast<std::size_t>(matrix.shape[1]);
  Matrix result{{matrix.shape[1], matrix.shape[0]}, {}};
  for (std::size_t k = 0; k < columns; ++k) {
    for (std::size_t i = 0; i < rows; ++i) result.values.push_back(matrix.values[i * columns + k]);
  }
  return result;
}

Matrix read(const weights::Weights& weights, const std::string& name) {
  Bench bench;
  const Shape& shape = weights.tensor(name).shape;
  const TestTensor out(Dtype::kFloat32, shape);
  weights.read(bench.stream(), name, out.view());
  Matrix matrix{{}, out.values()};
  for (int i = 0; i < shape.rank(); ++i) matrix.shape.push_back(shape[i]);
  return matrix;
}

/// The numbers that Llama 3.1's frequencies are divided by, after its model code.
std::vector<double> llama3_factors(double base, std::int64_t head, const attention::Llama3Scaling& scaling) {
  std::vector<double> factors;
  for (std::int64_t i = 0; i < head; i += 2) {
    const double wavelength = 2 * std::acos(-1.0) * std::pow(base, static_cast<double>(i) / static_cast<double>(head));
    const auto turns = static_cast<double>(scaling.original_positions) / wavelength;
    const double share =
        (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor);
    const double blended = 1 / ((1 - share) / scaling.factor + share);
    factors.push_back(turns > scaling.high_frequency_factor  ? 1
                      : turns < scaling.low_frequency_factor ? scaling.factor
                                                             : blended);
  }
  return factors;
}

fs::path golden_folder(const std::string& name) {
  return source_dir() / "tests/golden/models" / name;
}

/// Writes the keys of a configuration as llama.cpp's conversion does.
void describe(Model& model, const Config& config) {
  const std::string arch = config.model_type == "mistral"       ? "llama"
                           : config.model_type == "gemma3_text" ? "gemma3"
                                                                : config.model_type;
  model.text("general.architecture", arch);
  model.integer(arch + ".context_length", config.positions);
  model.integer(arch + ".embedding_length", config.hidden);
  model.integer(arch + ".block_count", config.layers);
  model.integer(arch + ".feed_forward_length", config.intermediate);
  model.integer(arch + ".attention.head_count", config.heads);
  model.number(
      arch + (config.norm == model::Norm::kRms ? ".attention.layer_norm_rms_epsilon" : ".attention.layer_norm_epsilon"),
      config.norm_epsilon);
  if (config.rope) {
    model.integer(arch + ".attention.head_count_kv", config.kv_heads);
    if (config.head_size * config.heads != config.hidden) {
      model.integer(arch + ".attention.key_length", config.head_size);
      model.integer(arch + ".attention.value_length", config.head_size);
    }
    model.integer(arch + ".rope.dimension_count", config.rope->rotary);
    model.number(arch + ".rope.freq_base", config.rope->base);
    if (config.window) model.integer(arch + ".attention.sliding_window", *config.window);
    if (config.score_cap > 0) model.number(arch + ".attn_logit_softcapping", config.score_cap);
    if (config.logit_cap > 0) model.number(arch + ".final_logit_softcapping", config.logit_cap);
    if (const auto* const linear = std::get_if<attention::LinearScaling>(&config.rope->scaling)) {
      model.text(arch + ".rope.scaling.type", "linear");
      model.number(arch + ".rope.scaling.factor", linear->factor);
    } else if (const auto* const yarn = std::get_if<attention::YarnScaling>(&config.rope->scaling)) {
      model.text(arch + ".rope.scaling.type", "yarn");
      model.number(arch + ".rope.scaling.factor", yarn->factor);
      model.integer(arch + ".rope.scaling.original_context_length", yarn->original_positions);
      model.number(arch + ".rope.scaling.yarn_beta_fast", yarn->beta_fast);
      model.number(arch + ".rope.scaling.yarn_beta_slow", yarn->beta_slow);
    } else if (const auto* const llama3 = std::get_if<attention::Llama3Scaling>(&config.rope->scaling)) {
      model.tensors["rope_freqs.weight"] = {{config.head_size / 2},
                                            llama3_factors(config.rope->base, config.head_size, *llama3)};
    }
  }
}

/// What config.json says of a model, but for what GGUF files have no word for.
json without_training(const Config& config) {
  json object = model::to_hugging_face(config);
  object.erase("initializer_range");
  return object;
}

/// A golden model as llama.cpp's conversion writes it.
Model converted(const std::string& name) {
  const Config config = model::read_hugging_face(golden_folder(name) / "config.json");
  const weights::Weights weights = weights::open_weights(golden_folder(name) / "model.safetensors");
  Model model;
  describe(model, config);
  const std::string arch = config.model_type == "mistral" ? "llama" : config.model_type;
  for (const weights::TensorInfo& tensor : weights.tensors()) {
    Matrix matrix = read(weights, tensor.name);
    if (arch == "llama" && tensor.name.find("q_proj") != std::string::npos) matrix = in_turn(matrix, config.heads);
    if (arch == "llama" && tensor.name.find("k_proj") != std::string::npos) matrix = in_turn(matrix, config.kv_heads);
    if (arch == "gpt2" && tensor.name.find(".c_") != std::string::npos && matrix.shape.size() == 2) {
      matrix = transposed(matrix);
    }
    if (arch == "gemma" && tensor.name.ends_with("norm.weight")) {
      for (double& value : matrix.values) value = static_cast<float>(value + 1);
    }
    model.tensors[gguf_name(tensor.name)] = matrix;
  }
  return model;
}

/// What a file is refused with, without the file's name.
std::string refusal(const Model& model) {
  const TemporaryFolder folder;
  const fs::path path = model.write(folder);
  try {
    const model::GgufModel opened = model::open_gguf_model(path);
    Bench bench;
    Decoder decoder(bench.stream(), opened.config, {.compute = Dtype::kFloat32, .gradients = false});
    decoder.load(opened.weights);
  } catch (const core::Error& error) {
    std::string message = error.what();
    for (auto at = message.find(path.string() + ": "); at != std::string::npos; at = message.find(path.string() + ": "))
      message.erase(at, path.string().size() + 2);
    return message;
  }
  return "not refused";
}

}  // namespace

TEST_CASE("golden models in GGUF are those in safetensors") {
  const std::string name = GENERATE(as<std::string>(), "gpt2", "llama2", "llama31", "llama_linear", "llama_yarn",
                                    "mistral", "qwen2", "qwen3", "gemma", "starcoder2");
  INFO(name);
  const TemporaryFolder folder;
  const model::GgufModel gguf = model::open_gguf_model(converted(name).write(folder));
  Config config = model::read_hugging_face(golden_folder(name) / "config.json");
  if (name == "llama_linear") config.activation = activation::Activation::kSilu;  // of GELU no GGUF key speaks
  CHECK(without_training(gguf.config) == without_training(config));

  const weights::Weights hugging_face = weights::open_weights(golden_folder(name) / "model.safetensors");
  const json golden = read_json(golden_folder(name) / "golden.json");
  const TestTensor ids = tensor_of(golden.at("ids"));
  Batch batch;
  batch.ids = ids.view();
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    INFO(core::name(dtype));
    Bench bench;
    const model::DecoderSettings settings{.compute = dtype, .gradients = false, .checkpointing = {}};
    Decoder one(bench.stream(), gguf.config, settings);
    one.load(gguf.weights);
    Decoder other(bench.stream(), config, settings);
    other.load(hugging_face);
    REQUIRE(one.parameters().size() == other.parameters().size());
    for (std::size_t i = 0; i < one.parameters().size(); ++i) {
      const model::Parameter& parameter = one.parameters()[i];
      INFO(parameter.spec.name);
      REQUIRE(parameter.spec.name == other.parameters()[i].spec.name);
      if (name == "gemma" && parameter.spec.shape.rank() == 1) continue;  // 1 was added, and rounded
      CHECK(std::memcmp(parameter.value.raw(), other.parameters()[i].value.raw(),
                        static_cast<std::size_t>(parameter.value.bytes())) == 0);
    }
    const std::vector<double> logits = logits_of(bench, one, batch);
    const std::vector<double> expected = logits_of(bench, other, batch);
    if (name == "gemma") {
      CHECK(worst_difference(logits, expected) <
            8 * golden.at("sensitivity").at("logits").get<double>() * unit_roundoff(dtype));
    } else {
      CHECK(logits == expected);
    }
  }
}

TEST_CASE("OLMo 2, Phi-3, Gemma 2 and Gemma 3 in GGUF give the logits of plain loops in fp64") {
  const std::string name = GENERATE(as<std::string>(), "olmo2", "phi3", "gemma2", "gemma3_text");
  INFO(name);
  const json golden = read_json(source_dir() / "tests/golden" / (name + ".json"));
  std::vector<std::string> problems;
  const auto config = model::read_hugging_face(golden.at("config"), problems);
  REQUIRE(config.has_value());
  Model model;
  describe(model, *config);
  for (const auto& [key, values] : golden.at("weights").items()) {
    Matrix matrix{{static_cast<std::int64_t>(values.size())}, flat(values)};
    if (values.at(0).is_array()) matrix.shape.push_back(static_cast<std::int64_t>(values.at(0).size()));
    // The norm after attention has another name than the one before the feed-forward part; Gemma's scales are whole.
    const bool after = name != "phi3" && key.find("post_attention_layernorm") != std::string::npos;
    if (name.starts_with("gemma") && key.ends_with("norm.weight")) {
      for (double& value : matrix.values) value = static_cast<float>(value + 1);
    }
    model.tensors[after ? replaced(gguf_name(key), "ffn_norm", "post_attention_norm") : gguf_name(key)] = matrix;
  }
  const TemporaryFolder folder;
  const model::GgufModel gguf = model::open_gguf_model(model.write(folder));
  CHECK(without_training(gguf.config) == without_training(*config));
  const TestTensor ids = tensor_of({golden.at("ids").get<std::vector<std::int32_t>>()});
  Batch batch;
  batch.ids = ids.view();
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    INFO(core::name(dtype));
    Bench bench;
    Decoder decoder(bench.stream(), gguf.config, {.compute = dtype, .gradients = false, .checkpointing = {}});
    decoder.load(gguf.weights);
    // A dozen roundings a layer on the way of each value, which norms make up to twice as large.
    CHECK(worst_difference(logits_of(bench, decoder, batch), flat(golden.at("logits"))) <
          24 * static_cast<double>(config->layers) * unit_roundoff(dtype));
  }
}

TEST_CASE("a decoder of ggml's blocks computes with the numbers they stand for") {
  struct Blocks {
    std::uint32_t type;
    std::int64_t bytes;
    std::vector<double> (*dequantize)(const std::string&);
  };
  const Blocks blocks = GENERATE(Blocks{8, 34, reference::dequantize_q8_0}, Blocks{2, 18, reference::dequantize_q4_0},
                                 Blocks{3, 20, reference::dequantize_q4_1});
  INFO("type " << blocks.type);
  const std::int64_t width = 64, inside = 96, vocabulary = 40, heads = 4, kv_heads = 2, head = 16;
  std::uint64_t state = blocks.type;
  const auto random = [&] { return static_cast<unsigned char>((state = state * 6364136223846793005u + 1) >> 56); };
  GgufBuilder builder;
  Model metadata;
  metadata.text("general.architecture", "llama");
  for (const auto& [key, value] : std::map<std::string, std::int64_t>{{"context_length", 32},
                                                                      {"embedding_length", width},
                                                                      {"block_count", 1},
                                                                      {"feed_forward_length", inside},
                                                                      {"attention.head_count", heads},
                                                                      {"attention.head_count_kv", kv_heads}}) {
    metadata.integer("llama." + key, value);
  }
  metadata.number("llama.attention.layer_norm_rms_epsilon", 1e-5);
  for (const auto& [key, value] : metadata.metadata) builder.value(key, value.first, value.second);
  std::map<std::string, Matrix> tensors;
  const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
    std::string bytes;
    for (std::int64_t block = 0; block < rows * columns / 32; ++block) {
      // Scales (and minima) of about 2^-8, and any elements.
      for (std::int64_t i = 0; i < blocks.bytes; ++i) bytes += static_cast<char>(random());
      for (std::int64_t i = 1; i < (blocks.type == 3 ? 4 : 2); i += 2) {
        char& high = bytes[bytes.size() - static_cast<std::size_t>(blocks.bytes - i)];
        high = static_cast<char>(0x18 | (high & 0x83));
      }
    }
    builder.tensor(name, {static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows)}, blocks.type, bytes);
    tensors[name] = {{rows, columns}, blocks.dequantize(bytes)};
  };
  add("token_embd.weight", vocabulary, width);
  add("output.weight", vocabulary, width);
  add("blk.0.attn_q.weight", heads * head, width);
  add("blk.0.attn_k.weight", kv_heads * head, width);
  add("blk.0.attn_v.weight", kv_heads * head, width);
  add("blk.0.attn_output.weight", width, heads * head);
  add("blk.0.ffn_gate.weight", inside, width);
  add("blk.0.ffn_up.weight", inside, width);
  add("blk.0.ffn_down.weight", width, inside);
  for (const char* const name : {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"}) {
    std::string bytes;
    for (std::int64_t i = 0; i < width; ++i) bytes += little(1.0f + static_cast<float>(random()) / 512);
    builder.tensor(name, {static_cast<std::uint64_t>(width)}, 0, bytes);
    tensors[name] = {{width}, {}};
    for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) {
      float value = 0;
      std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
      tensors[name].values.push_back(value);
    }
  }
  const TemporaryFolder folder;
  const model::GgufModel quantised = model::open_gguf_model(folder.write("q.gguf", builder.bytes()));
  Model plain = metadata;
  plain.tensors = tensors;
  const TemporaryFolder other_folder;
  const model::GgufModel floats = model::open_gguf_model(plain.write(other_folder));
  Bench bench;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    INFO(core::name(dtype));
    const model::DecoderSettings settings{.compute = dtype, .gradients = false, .checkpointing = {}};
    Decoder one(bench.stream(), quantised.config, settings);
    one.load(quantised.weights);
    Decoder other(bench.stream(), floats.config, settings);
    other.load(floats.weights);
    for (const model::Parameter& parameter : one.parameters()) {
      INFO(parameter.spec.name);
      // The rows of q and k, back in the order of Hugging Face; one rounding.
      Matrix expected = tensors.at(gguf_name(parameter.spec.name));
      const bool query = parameter.spec.name.find("q_proj") != std::string::npos;
      if (query || parameter.spec.name.find("k_proj") != std::string::npos) {
        const Matrix in_file = expected;
        for (std::int64_t row = 0; row < expected.shape[0]; ++row) {
          const std::int64_t at = row % head;
          const std::int64_t from = row - at + (at < head / 2 ? 2 * at : 2 * (at - head / 2) + 1);
          std::copy_n(in_file.values.begin() + from * width, width, expected.values.begin() + row * width);
        }
      }
      for (double& value : expected.values) value = rounded(value, dtype);
      const TestTensor got(dtype, parameter.spec.shape);
      std::memcpy(got.view().raw(), parameter.value.raw(), static_cast<std::size_t>(parameter.value.bytes()));
      CHECK(got.values() == expected.values);
    }
    const TestTensor ids = tensor_of({{1, 5, 9, 39, 0, 2, 7}});
    Batch batch;
    batch.ids = ids.view();
    const std::vector<double> logits = logits_of(bench, one, batch);
    CHECK(std::all_of(logits.begin(), logits.end(), [](double value) { return std::isfinite(value); }));
    CHECK(logits == logits_of(bench, other, batch));
  }
}

TEST_CASE("a GGUF file that is no model of ours is refused, with all that is wrong") {
  const auto changed = [](const std::string& name, const std::function<void(Model&)>& change) {
    Model model = converted(name);
    change(model);
    return refusal(model);
  };
  CHECK(changed("llama2", [](Model&) {}) == "not refused");
  CHECK_THAT(changed("llama2", [](Model& m) { m.metadata.erase("general.architecture"); }),
             Contains("there is no metadata \"general.architecture\""));
  CHECK(changed("llama2", [](Model& m) { m.text("general.architecture", "mamba"); }) ==
        "a model that cannot be read:\n  general.architecture: is \"mamba\"; Braise knows gpt2, llama, qwen2, qwen3, "
        "gemma, gemma2, gemma3, starcoder2, olmo2 and phi3");
  for (const char* const key : {"context_length", "embedding_length", "block_count", "feed_forward_length",
                                "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    CHECK_THAT(changed("llama2", [&](Model& m) { m.metadata.erase("llama." + std::string(key)); }),
               Contains("a model that cannot be read:\n  llama." + std::string(key) + ": is missing; a"));
  }
  CHECK(changed("llama2",
                [](Model& m) {
                  m.metadata.erase("llama.block_count");
                  m.number("llama.attention.temperature", 2);
                  m.integer("llama.expert_count", 8);
                  m.integer("llama.rope.dimension_count", 2);
                  m.integer("llama.vocab_size", 7);
                  m.metadata["llama.attention.causal"] = {kBool, std::string(1, '\0')};
                }) ==
        "a model that cannot be read:\n"
        "  llama.vocab_size: is 7, but token_embd.weight has 41 rows\n"
        "  llama.rope.dimension_count: is 2 of a head's 4 channels; all of them must turn\n"
        "  llama.attention.causal: is false, which Braise cannot compute; only true is\n"
        "  llama.expert_count: is 8, which Braise cannot compute; only 0 is\n"
        "  llama.attention.temperature: is unknown; Braise cannot tell what it asks for\n"
        "  llama.block_count: is missing; a whole number is needed");
  CHECK_THAT(changed("llama2",
                     [](Model& m) {
                       m.integer("llama.attention.head_count", 5);
                       m.text("llama.context_length", "long");
                       m.integer("llama.attention.head_count_kv", 3);
                     }),
             Contains("llama.context_length: is \"long\"; a whole number from 1") &&
                 Contains("llama.attention.head_count: is 5, which does not divide llama.embedding_length 16; or give "
                          "llama.attention.key_length") &&
                 Contains("llama.attention.head_count_kv: is 3, which does not divide llama.attention.head_count 5"));
  CHECK_THAT(changed("llama2",
                     [](Model& m) {
                       m.metadata["llama.attention.head_count_kv"] = {
                           9, GgufBuilder::list(kUint32, 2, little<std::uint32_t>(2) + little<std::uint32_t>(1))};
                     }),
             Contains("llama.attention.head_count_kv: is \"a list\"; a whole number from 1"));
  CHECK_THAT(changed("llama2",
                     [](Model& m) {
                       m.text("llama.rope.scaling.type", "longrope");
                       m.number("llama.rope.scaling.factor", 2);
                     }),
             Contains("llama.rope.scaling.type: \"longrope\" is unknown; one of default, linear"));
  CHECK_THAT(
      changed("llama2", [](Model& m) { m.integer("llama.attention.value_length", 6); }),
      Contains("llama.attention.value_length: is 6; Braise computes heads of values as wide as those of keys, 4"));
  CHECK_THAT(changed("gemma", [](Model& m) { m.integer("gemma.attention.sliding_window", 6); }),
             Contains("gemma.attention.sliding_window: is unknown"));
  CHECK_THAT(changed("llama31", [](Model& m) { m.tensors["rope_freqs.weight"].values.at(1) += 0.5; }),
             Contains("rope_freqs.weight: is not the scaling of Llama 3.1, the only one Braise knows"));
  CHECK_THAT(changed("llama31",
                     [](Model& m) {
                       m.tensors["rope_freqs.weight"] = {{3}, {1, 1, 8}};
                     }),
             Contains("rope_freqs.weight: is 3; an fp32 number for each two channels that turn is needed"));
  CHECK_THAT(changed("llama31", [](Model& m) { m.text("llama.rope.scaling.type", "yarn"); }),
             Contains("llama.rope.scaling.type: stands beside the tensor rope_freqs.weight"));

  CHECK_THAT(changed("llama2", [](Model& m) { m.tensors.erase("token_embd.weight"); }),
             Contains("token_embd.weight: is missing; a matrix with a row for each token is needed"));
  CHECK(changed("llama2",
                [](Model& m) {
                  m.tensors.erase("blk.1.attn_q.weight");
                  m.tensors["blk.0.ffn_down.weight"] = m.tensors["blk.0.ffn_up.weight"];
                }) ==
        "a model that cannot be read:\n"
        "  blk.0.ffn_down.weight: is 28 x 16, not 16 x 28\n"
        "  blk.1.attn_q.weight: is missing; it is model.layers.1.self_attn.q_proj.weight of this model");
  CHECK_THAT(changed("llama2",
                     [](Model& m) {
                       m.tensors["blk.0.ffn_gate_inp.weight"] = {{2}, {1, 1}};
                     }),
             Contains("blk.0.ffn_gate_inp.weight is not the model's"));
  CHECK_THAT(changed("llama2", [](Model& m) { m.tensors["model.norm.weight"] = m.tensors["output_norm.weight"]; }),
             Contains("model.norm.weight: is no name of GGUF files, and output_norm.weight is there too"));
  CHECK_THAT(changed("llama2", [](Model& m) { m.text("llama.context_length", "\xff"); }),
             Contains("llama.context_length: is \"\\\"\ufffd\\\"\"; a whole number"));
  CHECK_THAT(changed("gpt2",
                     [](Model& m) {
                       m.tensors["blk.0.attn_qkv.weight"].shape = {16, 48};
                     }),
             Contains("blk.0.attn_qkv.weight: is 16 x 48, not 48 x 16"));
}

TEST_CASE("what only newer or older GGUF files say is read") {
  const auto opened = [](const std::string& name, const std::function<void(Model&)>& change) {
    Model model = converted(name);
    change(model);
    const TemporaryFolder folder;
    return model::open_gguf_model(model.write(folder)).config;
  };
  CHECK(opened("llama2", [](Model& m) { m.integer("llama.attention.sliding_window", 0); }).model_type == "llama");
  const Config old = opened("llama2", [](Model& m) {
    m.number("llama.rope.scale_linear", 4);
    m.text("llama.tensor_data_layout", "Meta AI original pth");
    m.metadata.erase("llama.rope.freq_base");
    m.metadata.erase("llama.rope.dimension_count");
    m.metadata.erase("llama.attention.head_count_kv");
    m.tensors["blk.0.attn_k.weight"] = m.tensors["blk.1.attn_k.weight"] = m.tensors["blk.0.attn_q.weight"];
    m.tensors["blk.0.attn_v.weight"] = m.tensors["blk.1.attn_v.weight"] = m.tensors["blk.0.attn_q.weight"];
  });
  CHECK(old.rope->base == 10000);
  CHECK(old.rope->rotary == 4);
  CHECK(old.kv_heads == old.heads);
  const auto* const linear = std::get_if<attention::LinearScaling>(&old.rope->scaling);
  REQUIRE(linear != nullptr);
  CHECK(linear->factor == 4);
  const Config tied = opened("llama2", [](Model& m) { m.tensors.erase("output.weight"); });
  CHECK(tied.tied);
  const Config partly = opened("qwen2", [](Model& m) { m.integer("qwen2.rope.dimension_count", 2); });
  CHECK(partly.rope->rotary == 2);
  const Config halved = opened("llama31", [](Model& m) {
    m.tensors["rope_freqs.weight"].values.assign(m.tensors["rope_freqs.weight"].values.size(), 1);
  });
  CHECK(std::holds_alternative<std::monostate>(halved.rope->scaling));
}
