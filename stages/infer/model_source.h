// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "stages/shared/model/config.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/text/tokenizer.h"

namespace braise::infer {

/// A model to generate with, and how it reads and writes text.
struct LoadedModel {
  std::unique_ptr<model::Decoder> decoder;  ///< without gradients
  std::unique_ptr<text::Tokenizer> tokenizer;
};

/// Loads what a stage's `model` names (see its schema), to compute in `compute`. `tokenizer`: the stage's. The stream
/// must outlive it. Errors: core::Error naming the path, for what is no model, is damaged, lacks a tokenizer, or has
/// another vocabulary than it.
LoadedModel load_model(core::Stream& stream, const std::filesystem::path& path, core::Dtype compute,
                       const nlohmann::json& tokenizer);

}  // namespace braise::infer
