// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/model_source.h"

#include <nlohmann/json.hpp>
#include <string>

#include "kernels/core/error.h"
#include "stages/shared/weights/safetensors.h"

namespace braise::infer {
namespace {
namespace fs = std::filesystem;

using nlohmann::json;

weights::Weights open_hugging_face(const fs::path& folder) {
  for (const char* const name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(folder / name)) return weights::open_weights(folder / name);
  }
  throw core::Error(folder.string() +
                    " has a config.json, but neither model.safetensors nor model.safetensors.index.json; convert its "
                    "weights to safetensors");
}

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

LoadedModel load_hugging_face(core::Stream& stream, const fs::path& folder, core::Dtype compute,
                              const json& tokenizer) {
  const model::Config config = model::read_hugging_face(folder / "config.json");
  LoadedModel loaded;
  loaded.tokenizer = given_tokenizer(tokenizer);
  if (loaded.tokenizer == nullptr) {
    throw core::Error("the model " + folder.string() +
                      " does not say which tokenizer it was trained with; give the stage's `tokenizer`");
  }
  require_vocabulary(folder, *loaded.tokenizer, config);
  const model::DecoderSettings settings{.compute = compute, .gradients = false, .checkpointing = {}};
  loaded.decoder = std::make_unique<model::Decoder>(stream, config, settings);
  loaded.decoder->load(open_hugging_face(folder));
  return loaded;
}

}  // namespace

LoadedModel load_model(core::Stream& stream, const fs::path& path, core::Dtype compute, const json& tokenizer) {
  if (fs::exists(path / "config.json")) return load_hugging_face(stream, path, compute, tokenizer);
  throw core::Error(path.string() + " is no model: a Hugging Face folder has a config.json");
}

}  // namespace braise::infer
