// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "stages/shared/model/config.h"
#include "stages/shared/weights/weights.h"

namespace braise::model {

/// A model that lies in a GGUF file.
struct GgufModel {
  Config config;
  /// The tensors by their names in Hugging Face checkpoints and in the forms those have: what llama.cpp's conversion
  /// does to them (rows of q and k whose rotated channels are neighbours, GPT-2's matrices transposed, Gemma's norms
  /// plus 1) is undone as they are read. What the model has no place for keeps its name in the file.
  weights::Weights weights;
};

/// Opens a GGUF file as a model. Its architecture is one of those of read_hugging_face that llama.cpp knows by the same
/// name, or "llama" for mistral too; what the metadata leaves out is what llama.cpp takes. The tied head, biases and
/// the rotation of Llama 3.1 are known by the tensors there are.
/// Errors: UnreadableModel with all problems by their keys: what is missing, wrong, or unknown among the architecture's
/// keys, and parameters without a tensor. Those of weights::open_gguf.
/// Source: ggml, docs/gguf.md; llama.cpp, convert_hf_to_gguf.py.
GgufModel open_gguf_model(const std::filesystem::path& path);

}  // namespace braise::model
