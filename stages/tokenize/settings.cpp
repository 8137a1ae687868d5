// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/settings.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/core/error.h"

namespace braise::tokenize {
namespace {

template <typename Value>
Value choose(const nlohmann::json& config, const char* key, const std::map<std::string, Value>& choices) {
  const std::string word = config.at(key);
  const auto found = choices.find(word);
  if (found == choices.end()) throw core::Error(std::string("there is no `") + key + "` '" + word + "' in this build");
  return found->second;
}

}  // namespace

Settings settings_from(const nlohmann::json& config) {
  using Kind = text::DocumentFormat::Kind;
  using Unit = text::DocumentUnit;
  Settings settings;
  settings.format.kind =
      choose<Kind>(config, "format", {{"auto", Kind::automatic}, {"text", Kind::text}, {"jsonl", Kind::json_lines}});
  settings.format.unit =
      choose<Unit>(config, "documents", {{"file", Unit::file}, {"paragraph", Unit::paragraph}, {"line", Unit::line}});
  settings.format.text_key = config.at("text_key");
  const nlohmann::json& validation = config.at("validation");
  settings.validation.fraction = validation.at("fraction");
  settings.validation.take = choose<Validation::Take>(
      validation, "take", {{"documents", Validation::Take::documents}, {"tail", Validation::Take::tail}});
  settings.shard_bytes = config.at("shard_size");
  return settings;
}

}  // namespace braise::tokenize
