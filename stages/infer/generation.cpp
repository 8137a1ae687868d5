// SPDX-License-Identifier: Apache-2.0
#include "stages/infer/generation.h"

#include <openssl/evp.h>

#include <array>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/weights/text.h"

namespace braise::infer {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"length", "stop", "end_of_document", "positions"};

std::string with_replacements(const std::string& bytes) {
  const nlohmann::json json = bytes;
  return nlohmann::json::parse(json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string base64(const std::string& bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // with the terminator that OpenSSL writes
  const int length =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

/// The bytes of the character at the beginning, 0 where it is none that can be shown.
std::size_t shown_character(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first == '\n' || first == '\t') return 1;
  if (first < 0x20 || first == 0x7f) return 0;
  for (std::size_t length = 1; length <= 4 && length <= text.size(); ++length) {
    if (!weights::is_utf8(text.substr(0, length))) continue;
    const bool control = first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0;  // U+0080 to U+009F
    return control ? 0 : length;
  }
  return 0;
}

std::string shown(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  while (!text.empty()) {
    const std::size_t length = shown_character(text);
    if (length > 0) {
      result += text.substr(0, length);
      text.remove_prefix(length);
    } else {
      const auto byte = static_cast<unsigned char>(text[0]);
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
      text.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace

std::string_view name(Finish finish) {
  return kNames[static_cast<std::size_t>(finish)];
}

Finish finish_named(std::string_view word) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == word) return static_cast<Finish>(i);
  }
  throw core::Error("there is no finish reason '" + std::string(word) + "'");
}

nlohmann::json to_json(const Origin& origin, const Generation& generation) {
  nlohmann::json json = {{"prompt_index", origin.prompt_index},
                         {"sample", origin.sample},
                         {"seed", origin.seed},
                         {"prompt", origin.prompt},
                         {"completion", with_replacements(generation.text)},
                         {"tokens", generation.tokens},
                         {"finish_reason", name(generation.finish)}};
  if (!weights::is_utf8(generation.text)) json["completion_base64"] = base64(generation.text);
  return json;
}

std::string to_text(const Origin& origin, const Generation& generation) {
  return "--- prompt " + std::to_string(origin.prompt_index) + ", sample " + std::to_string(origin.sample) + ": " +
         std::to_string(generation.tokens.size()) + " tokens, " + std::string(name(generation.finish)) + "\n" +
         shown(origin.prompt) + shown(generation.text) + "\n\n";
}

}  // namespace braise::infer
