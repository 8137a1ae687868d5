// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/model_source.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "stages/shared/checkpoint/parameters.h"
#include "stages/shared/model/gguf_model.h"
#include "stages/shared/weights/weights.h"

namespace braise::infer {
namespace {
namespace fs = std::filesystem;

using nlohmann::json;

/// The tokenizer that a recipe gives, or null where it is the model's own.
std::unique_ptr<text::Tokenizer> given_tokenizer(const json& tokenizer) {
  return tokenizer.at("kind") == "model" ? nullptr : text::make_tokenizer(tokenizer);
}

void require_vocabulary(const fs::path& path, const text::Tokenizer& tokenizer, const model::Config& config) {
  if (tokenizer.vocabulary_size() == config.vocabulary) return;
  throw core::Error("the model " + path.string() + " has a vocabulary of " + std::to_string(config.vocabulary) +
                    " tokens, and the tokenizer `" + std::string(tokenizer.kind()) + "` one of " +
                    std::to_string(tokenizer.vocabulary_size()) +
                    ": it was trained with another tokenizer; see the keys of `tokenizer`");
}

LoadedModel load_weights(core::Stream& stream, const fs::path& path, const model::Config& config,
                         const weights::Weights& weights, core::Dtype compute, const json& tokenizer) {
  LoadedModel loaded;
  loaded.tokenizer = given_tokenizer(tokenizer);
  if (loaded.tokenizer == nullptr) {
    throw core::Error("the model " + path.string() +
                      " does not say which tokenizer it was trained with; give the stage's `tokenizer`");
  }
  require_vocabulary(path, *loaded.tokenizer, config);
  const model::DecoderSettings settings{.compute = compute, .gradients = false, .checkpointing = {}};
  loaded.decoder = std::make_unique<model::Decoder>(stream, config, settings);
  loaded.decoder->load(weights);
  return loaded;
}

LoadedModel load_checkpoint(core::Stream& stream, const fs::path& folder, core::Dtype compute, const json& tokenizer) {
  const checkpoint::Checkpoint checkpoint(folder);
  const json& metadata = checkpoint.metadata();
  std::vector<std::string> problems;
  const std::optional<model::Config> config = model::read_hugging_face(metadata.value("model", json()), problems);
  if (!config) throw core::Error(folder.string() + ": the model of the checkpoint cannot be read: " + problems.front());
  LoadedModel loaded;
  loaded.tokenizer = given_tokenizer(tokenizer);
  const json own = metadata.value("tokenizer", json());
  if (loaded.tokenizer == nullptr && own.is_null()) {
    throw core::Error("the checkpoint " + folder.string() +
                      " does not say which tokenizer it was trained with; give the stage's `tokenizer`");
  }
  if (loaded.tokenizer == nullptr) loaded.tokenizer = text::make_tokenizer(own);
  require_vocabulary(folder, *loaded.tokenizer, *config);
  const model::DecoderSettings settings{.compute = compute, .gradients = false, .checkpointing = {}};
  loaded.decoder = std::make_unique<model::Decoder>(stream, *config, settings);
  for (const model::Parameter& parameter : loaded.decoder->parameters()) {
    checkpoint::read_parameter(stream, checkpoint, parameter.spec.name, parameter.value);
  }
  loaded.decoder->values_changed();
  return loaded;
}

}  // namespace

LoadedModel load_model(core::Stream& stream, const fs::path& path, core::Dtype compute, const json& tokenizer) {
  if (const auto folder = checkpoint::folder_of(path)) return load_checkpoint(stream, *folder, compute, tokenizer);
  if (path.extension() == ".gguf") {
    const model::GgufModel gguf = model::open_gguf_model(path);
    return load_weights(stream, path, gguf.config, gguf.weights, compute, tokenizer);
  }
  if (fs::exists(path / "config.json")) {
    const model::Config config = model::read_hugging_face(path / "config.json");
    return load_weights(stream, path, config, weights::open_model_weights(path), compute, tokenizer);
  }
  throw core::Error(path.string() +
                    " is no model: a checkpoint has a manifest.json, a Hugging Face folder a config.json, and a file "
                    "of GGUF ends in .gguf");
}

}  // namespace braise::infer
