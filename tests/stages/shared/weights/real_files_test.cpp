// SPDX-License-Identifier: Apache-2.0
// Files that other programs wrote.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/weights/gguf.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

namespace braise::weights {
namespace {

namespace fs = std::filesystem;
using core::Dtype;
using core::Shape;
using test::Bench;
using test::TestTensor;

/// The folder of the shared data, or a visible warning.
fs::path data_or_warn() {
  const fs::path data = test::shared_data();
  if (data.empty()) WARN("skipped: there is no ../shared/data");
  return data;
}

std::vector<double> read(const Weights& weights, const std::string& name) {
  Bench bench;
  TestTensor out(Dtype::kFloat32, weights.tensor(name).shape);
  weights.read(bench.stream(), name, out.view());
  return out.values();
}

/// The name llama.cpp gives a weight of Hugging Face's Llama.
std::string gguf_name(std::string name) {
  const std::vector<std::pair<std::string, std::string>> words = {
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"model.layers", "blk"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
  };
  for (const auto& [from, to] : words) {
    if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  }
  return name;
}

/// Rows of q or k as llama.cpp orders them: within a head, the two halves interleaved.
std::vector<double> interleaved(const std::vector<double>& rows, std::size_t columns, std::size_t head) {
  std::vector<double> result(rows.size());
  for (std::size_t row = 0; row < rows.size() / columns; ++row) {
    const std::size_t at = row % head;
    const std::size_t to = row - at + (at < head / 2 ? 2 * at : 2 * (at - head / 2) + 1);
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(row * columns), columns,
                result.begin() + static_cast<std::ptrdiff_t>(to * columns));
  }
  return result;
}

/// Checks that a GGUF file holds the Llama of a safetensors file, in `dtype`.
void check_same_llama(const Weights& hugging_face, const Weights& gguf, std::size_t head, Dtype dtype) {
  for (const TensorInfo& tensor : hugging_face.tensors()) {
    if (tensor.name.ends_with("rotary_emb.inv_freq")) continue;  // computed, not stored, in GGUF
    const TensorInfo* const other = gguf.find(gguf_name(tensor.name));
    CAPTURE(tensor.name);
    REQUIRE(other != nullptr);
    CHECK(other->shape == tensor.shape);
    auto expected = read(hugging_face, tensor.name);
    const bool rotated =
        other->name.find("attn_q.") != std::string::npos || other->name.find("attn_k.") != std::string::npos;
    if (rotated) expected = interleaved(expected, static_cast<std::size_t>(tensor.shape[1]), head);
    if (tensor.shape.rank() > 1) {
      for (double& value : expected) value = test::rounded(value, dtype);
    }
    CHECK(read(gguf, other->name) == expected);
  }
}

TEST_CASE("every safetensors file of the shared data is opened and read") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  Bench bench;
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(data / "models")) {
    if (entry.path().extension() != ".safetensors") continue;
    CAPTURE(entry.path().string());
    ++files;
    const Safetensors file = open_safetensors(entry.path());
    CHECK_FALSE(file.weights.tensors().empty());
    for (const TensorInfo& tensor : file.weights.tensors()) {
      TestTensor out(is_float(tensor.encoding) ? Dtype::kFloat32 : Dtype::kInt32, tensor.shape);
      file.weights.read(bench.stream(), tensor.name, out.view());
      if (tensor.encoding == Encoding::kF32) {
        CHECK(out.bytes() == std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()));
      }
    }
  }
  CHECK(files >= 25);
}

TEST_CASE("the state of a torch module is what it should be") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  const Safetensors file = open_safetensors(data / "models/hf-tiny/tiny_torch_state.safetensors");
  std::set<std::string> types;
  for (const TensorInfo& tensor : file.weights.tensors()) types.insert(tensor.type);
  CHECK(types == std::set<std::string>{"BF16", "F16", "F32", "I64"});
}

TEST_CASE("a sharded Llama is the whole one") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  const Safetensors whole = open_safetensors(data / "models/hf-tiny/tiny_llama.safetensors");
  const Safetensors shards = open_sharded_safetensors(data / "models/hf-tiny/tiny_llama.safetensors.index.json");
  REQUIRE(shards.weights.tensors().size() == whole.weights.tensors().size());
  for (const TensorInfo& tensor : whole.weights.tensors()) {
    CHECK(std::ranges::equal(shards.weights.tensor(tensor.name).bytes, tensor.bytes));
  }
}

TEST_CASE("a Llama in GGUF is the one in safetensors") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  const fs::path folder = data / "models/hf-tiny";
  const auto config = nlohmann::json::parse(io::read_file(folder / "tiny_llama_config.json"));
  const std::size_t head = config["hidden_size"].get<std::size_t>() / config["num_attention_heads"].get<std::size_t>();
  const Safetensors file = open_safetensors(folder / "tiny_llama.safetensors");
  const Gguf fp32 = open_gguf(folder / "tiny_llama_f32.gguf"), fp16 = open_gguf(folder / "tiny_llama_f16.gguf");
  check_same_llama(file.weights, fp32.weights, head, Dtype::kFloat32);
  check_same_llama(file.weights, fp16.weights, head, Dtype::kFloat16);
  CHECK(fp32.metadata.text("general.architecture") == "llama");
  CHECK(fp32.metadata.integer("llama.block_count") == config["num_hidden_layers"].get<int>());
}

TEST_CASE("stories260K in GGUF is the one in safetensors, as far as its type is exact") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  const fs::path folder = data / "models/stories260k";
  const Safetensors file = open_safetensors(folder / "model.safetensors");
  const Gguf fp32 = open_gguf(folder / "stories260K-f32.gguf");
  check_same_llama(file.weights, fp32.weights, 8, Dtype::kFloat32);
  CHECK(fp32.metadata.integer("llama.embedding_length") == 64);
  CHECK(fp32.metadata.list<std::string>("tokenizer.ggml.tokens").size() == 512);

  // Half a step of the coarsest scale there: a block's largest magnitude over 127, or its span over 15 or 8; and the
  // fp16 of the scale.
  struct Quantised {
    const char* name;
    const char* type;
    double steps;
  };
  for (const Quantised& quantised :
       {Quantised{"q8_0", "Q8_0", 0.5 / 127}, {"q4_0", "Q4_0", 1.0 / 8}, {"q4_1", "Q4_1", 1.0 / 15}}) {
    const Gguf gguf = open_gguf(folder / ("stories260K-" + std::string(quantised.name) + ".gguf"));
    int count = 0;
    for (const TensorInfo& tensor : gguf.weights.tensors()) {
      CAPTURE(tensor.name);
      const auto exact = read(fp32.weights, tensor.name);
      if (tensor.type != quantised.type) {
        CHECK((tensor.type == "F32" || tensor.type == "F16" || tensor.type == "Q8_0"));
        continue;
      }
      ++count;
      test::check_close(
          read(gguf.weights, tensor.name), exact,
          [&](std::size_t i) {
            double largest = 0;
            for (std::size_t k = i / 32 * 32; k < i / 32 * 32 + 32; ++k)
              largest = std::max(largest, std::abs(exact[k]));
            return largest * (quantised.steps + 0x1p-10);
          },
          tensor.name);
    }
    CHECK(count >= 30);
  }
  const Gguf mixed = open_gguf(folder / "stories260K-q4_k_m-fallback.gguf");
  Bench bench;
  int refused = 0;
  for (const TensorInfo& tensor : mixed.weights.tensors()) {
    if (tensor.encoding != Encoding::kOther) continue;
    ++refused;
    TestTensor out(Dtype::kFloat32, tensor.shape);
    CHECK_THROWS_WITH(mixed.weights.read(bench.stream(), tensor.name, out.view()),
                      Catch::Contains("is stored as Q5_0, which is not supported"));
  }
  CHECK(refused > 0);
}

TEST_CASE("other GGUF files of the shared data are opened") {
  const fs::path data = data_or_warn();
  if (data.empty()) return;
  const Gguf llama = open_gguf(data / "models/llama-2-tiny-random/llama-2-tiny-random.gguf");
  CHECK(llama.metadata.text("general.architecture") == "llama");
  for (const TensorInfo& tensor : llama.weights.tensors()) CHECK_FALSE(read(llama.weights, tensor.name).empty());
  int vocabularies = 0;
  for (const auto& entry : fs::recursive_directory_iterator(data / "tokenizers")) {
    if (entry.path().extension() != ".gguf") continue;
    CAPTURE(entry.path().string());
    ++vocabularies;
    const Gguf file = open_gguf(entry.path());
    CHECK(file.weights.tensors().empty());
    CHECK(file.metadata.list<std::string>("tokenizer.ggml.tokens").size() > 1000);
    CHECK(file.metadata.has("tokenizer.ggml.model"));
  }
  CHECK(vocabularies >= 2);
}

}  // namespace
}  // namespace braise::weights
