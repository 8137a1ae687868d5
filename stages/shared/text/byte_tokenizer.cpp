// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/byte_tokenizer.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace braise::text {

void ByteTokenizer::encode(std::string_view document, std::vector<std::uint32_t>& tokens) const {
  const std::size_t begin = tokens.size();
  tokens.resize(begin + document.size());
  std::transform(document.begin(), document.end(), tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                 [](char c) { return static_cast<unsigned char>(c); });
}

void ByteTokenizer::decode(std::span<const std::uint32_t> tokens, std::string& text) const {
  for (const std::uint32_t token : tokens) {
    if (token >= vocabulary_size()) {
      throw core::Error("the tokenizer `bytes` has " + std::to_string(vocabulary_size()) + " tokens, and no token " +
                        std::to_string(token));
    }
    if (token < 256) text += static_cast<char>(static_cast<unsigned char>(token));
  }
}

std::optional<std::uint32_t> ByteTokenizer::end_of_document() const {
  return with_end_of_document_ ? std::optional<std::uint32_t>(256) : std::nullopt;
}

}  // namespace braise::text
