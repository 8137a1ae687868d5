// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/core/copy.h"
#include "stages/shared/io/file.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/weights/safetensors.h"
#include "tests/stages/shared/model/small_models.h"
#include "tests/support/tensors.h"

namespace braise::test {

/// A model of random weights that knows every byte, and the end of a document.
inline model::Config byte_model(model::Config config = small_llama()) {
  config.vocabulary = 257;
  return config;
}

/// Writes a model of random weights as a Hugging Face folder. `change` may alter the parameters.
inline void write_hugging_face(const std::filesystem::path& folder, const model::Config& config, std::uint64_t seed,
                               const std::function<void(const model::Parameter&)>& change = {}) {
  Bench bench;
  model::Decoder decoder(bench.stream(), config,
                         {.compute = core::Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  decoder.initialise(seed);
  std::filesystem::create_directories(folder);
  io::write_file_durably(folder / "config.json", model::to_hugging_face(config).dump(1));
  std::vector<weights::NewTensor> tensors;
  for (const model::Parameter& parameter : decoder.parameters()) {
    if (change) change(parameter);
    tensors.push_back({parameter.spec.name, weights::Encoding::kF32, parameter.spec.shape});
  }
  weights::SafetensorsWriter writer(folder / "model.safetensors", tensors, {});
  for (const model::Parameter& parameter : decoder.parameters()) writer.write(parameter.spec.name, parameter.value);
  writer.finish();
}

}  // namespace braise::test
