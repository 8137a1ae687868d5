// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/shared/text/tokenizer.h"

namespace braise::text {

/// Each byte is a token, 0 to 255; 256 ends a document where that is wanted. Takes any bytes.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(bool with_end_of_document) : with_end_of_document_(with_end_of_document) {}

  std::string_view kind() const override { return "bytes"; }
  void encode(std::string_view document, std::vector<std::uint32_t>& tokens) const override;
  void decode(std::span<const std::uint32_t> tokens, std::string& text) const override;
  std::uint32_t vocabulary_size() const override { return with_end_of_document_ ? 257 : 256; }
  std::optional<std::uint32_t> end_of_document() const override;

 private:
  bool with_end_of_document_;
};

}  // namespace braise::text
