// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/model_at.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"
#include "stages/shared/model/gguf_model.h"

namespace braise::model {
namespace {
namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";

Config config_of_checkpoint(const fs::path& manifest) {
  const nlohmann::json json = nlohmann::json::parse(io::read_file(manifest), nullptr, false);
  const nlohmann::json::json_pointer place("/metadata/model");
  if (!json.is_object() || !json.contains(place)) {
    throw UnreadableModel(manifest, {"is no manifest of a checkpoint of a model"});
  }
  std::vector<std::string> problems;
  const std::optional<Config> config = read_hugging_face(json.at(place), problems);
  if (!config) throw UnreadableModel(manifest, problems);
  return *config;
}

Config config_of(const fs::path& path) {
  if (is_checkpoint(path)) return config_of_checkpoint(path.filename() == kManifest ? path : path / kManifest);
  if (path.extension() == ".gguf") return open_gguf_model(path).config;
  if (fs::exists(path / "config.json")) return read_hugging_face(path / "config.json");
  throw UnreadableModel(path, {"is no model: a checkpoint has a manifest.json, a folder of Hugging Face a config.json, "
                               "and a file of GGUF ends in .gguf"});
}

}  // namespace

bool is_checkpoint(const fs::path& path) {
  return path.filename() == kManifest ? fs::exists(path) : fs::exists(path / kManifest);
}

std::optional<Config> config_at(const fs::path& path, std::vector<std::string>& problems) {
  try {
    return config_of(path);
  } catch (const UnreadableModel& error) {
    problems.insert(problems.end(), error.problems().begin(), error.problems().end());
  } catch (const core::Error& error) {
    problems.emplace_back(error.what());
  }
  return std::nullopt;
}

}  // namespace braise::model
