// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "stages/shared/text/document_reader.h"

namespace braise::tokenize {

/// What part of the text is kept for validation.
struct Validation {
  enum class Take { documents, tail };
  double fraction = 0;
  Take take = Take::documents;
};

/// The stage's configuration, typed. Keys: schemas/stage.tokenize.schema.json.
struct Settings {
  text::DocumentFormat format;
  Validation validation;
  std::uint64_t shard_bytes = 0;
};

Settings settings_from(const nlohmann::json& config);

}  // namespace braise::tokenize
