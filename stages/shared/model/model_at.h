// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "stages/shared/model/config.h"

namespace braise::model {

/// Whether a path is that of a checkpoint of Braise: its folder or its manifest.json.
bool is_checkpoint(const std::filesystem::path& path);

/// The configuration of the model that lies at a path: a folder with config.json, as Hugging Face has them, a GGUF
/// file, or a checkpoint of Braise, whose manifest is read, not verified. Where there is none that Braise can compute,
/// nothing is returned, and `problems` say why, each with its file.
std::optional<Config> config_at(const std::filesystem::path& path, std::vector<std::string>& problems);

}  // namespace braise::model
