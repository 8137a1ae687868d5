// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/settings.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"

namespace braise::infer {
Settings settings_from(const nlohmann::json& config, std::int64_t seed) {
  Settings settings;
  const nlohmann::json& sampling = config.at("sampling");
  settings.sampling.temperature = sampling.at("temperature");
  settings.sampling.top_k = sampling.at("top_k");
  settings.sampling.top_p = sampling.at("top_p");
  settings.sampling.max_tokens = sampling.at("max_tokens");
  settings.sampling.stop = sampling.at("stop").get<std::vector<std::string>>();
  settings.sampling.seed = static_cast<std::uint64_t>(seed);
  settings.samples = config.at("samples");
  const std::string compute = config.at("precision").at("compute");
  const std::optional<core::Dtype> dtype = core::dtype_named(compute);
  if (!dtype) throw core::Error("there is no number format '" + compute + "' in this build");
  settings.compute = *dtype;
  settings.batch = config.at("batch");
  return settings;
}

}  // namespace braise::infer
