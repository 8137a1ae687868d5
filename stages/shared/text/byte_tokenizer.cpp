// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/byte_tokenizer.h"

#include <algorithm>

namespace braise::text {

void ByteTokenizer::encode(std::string_view document, std::vector<std::uint32_t>& tokens) const {
  const std::size_t begin = tokens.size();
  tokens.resize(begin + document.size());
  std::transform(document.begin(), document.end(), tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                 [](char c) { return static_cast<unsigned char>(c); });
}

std::optional<std::uint32_t> ByteTokenizer::end_of_document() const {
  return with_end_of_document_ ? std::optional<std::uint32_t>(256) : std::nullopt;
}

}  // namespace braise::text
