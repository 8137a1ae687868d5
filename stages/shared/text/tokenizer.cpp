// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/text/tokenizer.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/text/byte_tokenizer.h"

namespace braise::text {

std::unique_ptr<Tokenizer> make_tokenizer(const nlohmann::json& config) {
  const std::string kind = config.at("kind");
  if (kind == "bytes") return std::make_unique<ByteTokenizer>(config.at("end_of_document").get<bool>());
  throw core::Error("there is no tokenizer of kind '" + kind + "' in this build");
}

}  // namespace braise::text
