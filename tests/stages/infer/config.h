// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

namespace braise::test {

/// A resolved configuration of an `infer` stage; `changes` as a merge patch.
inline nlohmann::json infer_config(const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json config = {
      {"model", "/unused"},
      {"tokenizer", {{"kind", "bytes"}, {"end_of_document", true}}},
      {"prompts", {"The ", "A", "what?"}},
      {"samples", 1},
      {"sampling",
       {{"temperature", 1.0}, {"top_k", 0}, {"top_p", 1.0}, {"max_tokens", 12}, {"stop", nlohmann::json::array()}}},
      {"precision", {{"compute", "bf16"}}},
      {"batch", 8}};
  config.merge_patch(changes);
  for (nlohmann::json& prompt : config["prompts"]) {
    if (!prompt.is_object()) continue;
    const nlohmann::json given = prompt;
    prompt = {{"format", "auto"}, {"text_key", "text"}};
    prompt.update(given);
  }
  return config;
}

}  // namespace braise::test
