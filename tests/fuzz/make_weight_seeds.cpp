// SPDX-License-Identifier: Apache-2.0
// Writes the seeds of the targets that read weight files: make_weight_seeds SAFETENSORS INDEX GGUF (folders).
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/support/weight_files.h"

namespace braise {
namespace {

namespace fs = std::filesystem;
using test::GgufBuilder;
using test::little;
using weights::Encoding;

/// A tensor of every encoding safetensors has, with small numbers in it.
void safetensors_seeds(const fs::path& folder) {
  std::vector<weights::NewTensor> tensors;
  for (int i = 0; i <= static_cast<int>(Encoding::kU64); ++i) {
    const auto encoding = static_cast<Encoding>(i);
    tensors.push_back({std::string(name(encoding)), encoding, i % 2 == 0 ? core::Shape{2, 3} : core::Shape{3}});
  }
  for (std::size_t part = 0; part <= tensors.size(); ++part) {
    std::vector<weights::NewTensor> some{tensors.begin(), tensors.end()};
    if (part < tensors.size()) some = {tensors[part], {"scalar", Encoding::kF32, {}}, {"none", Encoding::kU8, {0, 4}}};
    std::map<std::string, std::string> metadata;
    if (part % 3 == 0) metadata["format"] = "pt";
    weights::SafetensorsWriter writer(folder / ("seed" + std::to_string(part)), some, metadata);
    for (const auto& tensor : some) {
      const std::string bytes(static_cast<std::size_t>(tensor.shape.elements() * element_bytes(tensor.encoding)), '\1');
      writer.write(tensor.name, std::as_bytes(std::span(bytes)));
    }
    writer.finish();
  }
}

void index_seeds(const fs::path& folder) {
  const auto shard = [](const std::string& tensor) {
    return test::safetensors_file("{\"" + tensor + "\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", "xy");
  };
  const auto seed = [&](const std::string& name, const std::string& index) {
    const std::string a = shard("a");
    io::write_file_durably(
        folder / name, index + std::string(1, '\0') + little(static_cast<std::uint16_t>(a.size())) + a + shard("b"));
  };
  seed("two", R"({"metadata":{"total_size":4},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}})");
  seed("one", R"({"weight_map":{"a":"a.safetensors"}})");
  seed("swapped", R"({"weight_map":{"b":"a.safetensors","a":"b.safetensors"}})");
  seed("escape", R"({"weight_map":{"a":"../a.safetensors"},"x":[null,true,-1,1.5,{"y":[]}]})");
}

void gguf_seeds(const fs::path& folder) {
  GgufBuilder values;
  const std::string sixteen = little<std::uint64_t>(1) + little<std::uint64_t>(2);
  for (std::uint32_t type = 0; type <= 12; ++type) {
    const std::string bytes = type == 8   ? GgufBuilder::text("text")
                              : type == 9 ? GgufBuilder::list(8, 2, GgufBuilder::text("a") + GgufBuilder::text("bc"))
                              : type == 7 ? "\1"
                                          : std::string(std::size_t{1} << (type < 2   ? 0
                                                                           : type < 4 ? 1
                                                                           : type < 7 ? 2
                                                                                      : 3),
                                                        '\1');
    values.value("value" + std::to_string(type), type, bytes);
    if (type != 8 && type != 9) values.value("list" + std::to_string(type), 9, GgufBuilder::list(type, 1, bytes));
  }
  values.value("lists", 9, GgufBuilder::list(9, 2, GgufBuilder::list(10, 2, sixteen) + GgufBuilder::list(0, 0, "")));
  io::write_file_durably(folder / "values", values.bytes());
  struct Type {
    std::uint32_t number;
    std::uint64_t elements;
    std::size_t bytes;
  };
  GgufBuilder all(2);
  for (const Type& type : {Type{0, 1, 4}, Type{1, 1, 2}, Type{30, 1, 2}, Type{8, 32, 34}, Type{2, 32, 18},
                           Type{3, 32, 20}, Type{12, 256, 144}, Type{24, 1, 1}, Type{25, 1, 2}, Type{26, 1, 4},
                           Type{27, 1, 8}, Type{28, 1, 8}, Type{1000, 1, 8}}) {
    const std::string bytes(2 * type.bytes, '\1');
    const std::string name = "tensor" + std::to_string(type.number);
    all.tensor(name, {type.elements, 2}, type.number, bytes);
    io::write_file_durably(folder / name, GgufBuilder(3, 8)
                                              .value("general.alignment", 4, little<std::uint32_t>(8))
                                              .tensor(name, {type.elements, 2}, type.number, bytes)
                                              .tensor("scalar", {}, 0, little(1.0f))
                                              .bytes());
  }
  io::write_file_durably(folder / "all", all.bytes());
  const std::string epsilon = little(1e-5f), two = little<std::uint32_t>(2), one = little<std::uint32_t>(1);
  const auto floats = [](std::size_t count) { return std::string(4 * count, '\0'); };
  const auto model = [&](const std::string& architecture) {
    GgufBuilder builder;
    builder.value("general.architecture", 8, GgufBuilder::text(architecture))
        .value(architecture + ".context_length", 4, two)
        .value(architecture + ".embedding_length", 4, two)
        .value(architecture + ".block_count", 4, one)
        .value(architecture + ".feed_forward_length", 4, two)
        .value(architecture + ".attention.head_count", 4, one)
        .value(architecture + ".attention.layer_norm_rms_epsilon", 6, epsilon)
        .value(architecture + ".rope.freq_base", 6, little(10000.0f))
        .tensor("token_embd.weight", {2, 3}, 0, floats(6))
        .tensor("output_norm.weight", {2}, 0, floats(2))
        .tensor("blk.0.attn_norm.weight", {2}, 0, floats(2))
        .tensor("blk.0.ffn_norm.weight", {2}, 0, floats(2));
    for (const char* const name : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
      builder.tensor("blk.0." + std::string(name) + ".weight", {2, 2}, 0, floats(4));
    }
    return builder;
  };
  io::write_file_durably(folder / "model", model("llama")
                                               .value("llama.rope.scaling.type", 8, GgufBuilder::text("none"))
                                               .tensor("rope_freqs.weight", {1}, 0, little(1.0f))
                                               .bytes());
  for (const std::string architecture : {"gemma2", "gemma3"}) {
    GgufBuilder gemma = model(architecture);
    gemma.value(architecture + ".attention.sliding_window", 4, two)
        .value(architecture + ".final_logit_softcapping", 6, little(30.0f));
    for (const char* const name : {"post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"}) {
      if (architecture == "gemma3" || std::string(name).starts_with("post")) {
        gemma.tensor("blk.0." + std::string(name) + ".weight", {2}, 0, floats(2));
      }
    }
    io::write_file_durably(folder / architecture, gemma.bytes());
  }
}

}  // namespace
}  // namespace braise

int main(int, char** argv) {
  for (int i = 1; i <= 3; ++i) std::filesystem::create_directories(argv[i]);
  braise::safetensors_seeds(argv[1]);
  braise::index_seeds(argv[2]);
  braise::gguf_seeds(argv[3]);
}
