// SPDX-License-Identifier: Apache-2.0
// Checkpoints as directories in Hugging Face's form, and back.
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/saver.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/parameters.h"
#include "stages/shared/text/tokenizer.h"
#include "stages/shared/weights/safetensors.h"
#include "stages/shared/weights/weights.h"
#include "stages/tools/target.h"
#include "stages/tools/tools.h"

namespace braise::tools {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kParameters[] = "parameters/";
constexpr char kMaster[] = "master/";
constexpr char kEndOfText[] = "<|endoftext|>";
constexpr std::int64_t kShardBytes = 5'000'000'000;  // as Hugging Face cuts them

/// Memory for what is read and converted.
struct Host {
  core::MemoryLedger ledger;
  core::Arena arena{core::kCpu, core::Space::kHost, ledger};
  std::unique_ptr<core::Stream> stream = core::make_stream(arena);
  core::Tensor tensor(core::Dtype dtype, const core::Shape& shape) {
    return arena.tensor(dtype, shape, core::Category::kWorkspace, "transfer");
  }
};

const char* torch_name(core::Dtype dtype) {
  return dtype == core::Dtype::kBfloat16 ? "bfloat16" : dtype == core::Dtype::kFloat16 ? "float16" : "float32";
}

std::string utf8(std::uint32_t code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

/// tokenizer.json of the tokenizer whose tokens are bytes: byte-level BPE without a merge. Bytes are written as the
/// printable characters that GPT-2 gives them.
json byte_tokenizer_json(bool with_end) {
  json vocabulary = json::object();
  std::uint32_t next = 256;  // for bytes that are not printable
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    vocabulary[utf8(printable ? byte : next++)] = byte;
  }
  json added = json::array();
  if (with_end) {
    added.push_back({{"id", 256},
                     {"content", kEndOfText},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", bytes},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", json::array()}}}};
}

/// What a checkpoint records of a tokenizer, as files beside the weights. Without a record there are none.
void write_tokenizer(const json& metadata, const fs::path& to) {
  const auto config = metadata.find("tokenizer");
  if (config == metadata.end() || !config->is_object() || config->value("kind", "") != "bytes") return;
  const bool with_end = text::make_tokenizer(*config)->end_of_document().has_value();
  io::write_file_durably(to / "tokenizer.json", byte_tokenizer_json(with_end).dump(2) + "\n");
  json how = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  if (with_end) how["eos_token"] = kEndOfText;
  io::write_file_durably(to / "tokenizer_config.json", how.dump(2) + "\n");
}

/// One tensor to be exported.
struct Exported {
  std::string name;
  std::string path;  // in the checkpoint
  core::Dtype dtype = core::Dtype::kFloat32;
};

std::vector<Exported> exported_tensors(const checkpoint::Checkpoint& from, std::optional<core::Dtype> dtype) {
  std::vector<Exported> tensors;
  for (const checkpoint::TensorInfo& info : from.tensors()) {
    if (!info.path.starts_with(kParameters)) continue;
    if (!core::is_float(info.dtype))
      throw BadInput(info.path + " is " + std::string(core::name(info.dtype)) + ", which export cannot write");
    const std::string name = info.path.substr(sizeof kParameters - 1);
    const std::string master = kMaster + name;
    tensors.push_back({name, from.find(master) != nullptr ? master : info.path, dtype.value_or(info.dtype)});
  }
  if (tensors.empty()) throw BadInput(from.folder().string() + " holds no parameters");
  return tensors;
}

}  // namespace

int export_checkpoint(const fs::path& path, const fs::path& to, std::optional<core::Dtype> dtype) {
  const Target target = find_target(path);
  if (target.kind != TargetKind::kCheckpoint) throw BadInput(path.string() + " is no checkpoint");
  const checkpoint::Checkpoint from(target.path);
  const json& metadata = from.metadata();
  if (!metadata.contains("model") || !metadata["model"].is_object())
    throw BadInput(target.path.string() + " has no model configuration in its metadata");
  const std::vector<Exported> tensors = exported_tensors(from, dtype);
  if (fs::exists(to)) throw BadInput(to.string() + " is there already; name a folder that is not");
  io::create_directories_durably(to);
  try {
    std::vector<weights::NewTensor> files;
    for (const Exported& tensor : tensors)
      files.push_back({tensor.name, weights::encoding_of(tensor.dtype), from.tensor(tensor.path).shape});
    weights::SafetensorsWriter writer(to / "model.safetensors", std::move(files), {{"format", "pt"}}, kShardBytes);
    Host host;
    for (const Exported& tensor : tensors) {
      const checkpoint::TensorInfo& info = from.tensor(tensor.path);
      const core::Tensor read = host.tensor(info.dtype, info.shape);
      from.read(tensor.path, 0, read.view);
      if (info.dtype == tensor.dtype) {
        writer.write(tensor.name, read.view);
        continue;
      }
      const core::Tensor converted = host.tensor(tensor.dtype, info.shape);
      core::copy(*host.stream, converted.view, read.view);
      host.stream->synchronize();
      writer.write(tensor.name, converted.view);
    }
    writer.finish();
    json config = metadata["model"];
    config["torch_dtype"] = torch_name(tensors.front().dtype);
    io::write_file_durably(to / "config.json", config.dump(2) + "\n");
    write_tokenizer(metadata, to);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(to, ignored);
    throw;
  }
  std::printf("%s: %zu tensors of step %lld\n", to.c_str(), tensors.size(), static_cast<long long>(from.step()));
  return kSuccess;
}

int import_weights(const fs::path& path, const fs::path& to) {
  const Target target = find_target(path);
  if (target.kind != TargetKind::kWeights)
    throw BadInput(path.string() + " is no weight file or directory in Hugging Face's form");
  if (target.path.extension() == ".gguf") {
    throw BadInput(target.path.string() +
                   " names and orders weights as llama.cpp does; import takes safetensors with a config.json beside");
  }
  const fs::path config_file = target.path.parent_path() / "config.json";
  if (!fs::exists(config_file)) throw BadInput("there is no " + config_file.string() + ", which describes the model");
  if (fs::exists(to)) throw BadInput(to.string() + " is there already; name a folder that is not");
  const model::Config config = model::read_hugging_face(config_file);
  const weights::Weights from = weights::open_weights(target.path);

  Host host;
  try {
    model::check_weights(*host.stream, host.arena, from, config);
  } catch (const core::Error& error) {
    throw BadInput(target.path.string() + ": " + error.what());
  }
  std::vector<core::Tensor> converted;
  std::vector<checkpoint::Piece> pieces;
  for (const model::ParameterSpec& spec : model::parameter_specs(config)) {
    const weights::TensorInfo* const found = model::find_parameter(from, spec);
    const std::optional<core::Dtype> dtype = weights::same_dtype(found->encoding);
    core::ConstTensorView data;
    if (dtype && core::is_float(*dtype)) {
      data = core::ConstTensorView(found->bytes.data(), *dtype, found->shape);
    } else {
      converted.push_back(host.tensor(core::Dtype::kFloat32, found->shape));
      from.read(*host.stream, found->name, converted.back().view);
      data = converted.back().view;
    }
    pieces.push_back({kParameters + spec.name, spec.shape, 0, data});
  }
  const json metadata = {{"model", model::to_hugging_face(config)},
                         {"provenance", {{"imported_from", fs::absolute(target.path).string()}}}};
  const checkpoint::Saved saved = checkpoint::write_checkpoint(to, "import", 0, pieces, metadata);
  std::printf("%s: %zu tensors, weights digest %s\n", to.c_str(), pieces.size(), saved.weights_digest.c_str());
  return kSuccess;
}

}  // namespace braise::tools
