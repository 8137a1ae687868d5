// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace braise::text {

/// Turns text into tokens, and back. The same text always gives the same tokens. Const members may be called from
/// several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The word in the recipe: "bytes".
  virtual std::string_view kind() const = 0;

  /// Appends the tokens of one document, without an end-of-document token. Each is below vocabulary_size().
  /// Errors: core::Error where the kind cannot take the text (a kind that wants UTF-8, say).
  virtual void encode(std::string_view document, std::vector<std::uint32_t>& tokens) const = 0;

  /// Appends the bytes that tokens stand for: a document's tokens give the document, the end-of-document token nothing.
  /// A token alone need not be whole characters. Errors: core::Error for a token that is not below vocabulary_size().
  virtual void decode(std::span<const std::uint32_t> tokens, std::string& text) const = 0;

  /// How many tokens there are, the end-of-document token included.
  virtual std::uint32_t vocabulary_size() const = 0;

  /// What follows each document; nothing where documents are not to be ended.
  virtual std::optional<std::uint32_t> end_of_document() const = 0;
};

/// The tokenizer a recipe asks for: `config` is the `tokenizer` of a stage, as its schema says.
std::unique_ptr<Tokenizer> make_tokenizer(const nlohmann::json& config);

}  // namespace braise::text
