// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/text.h"

#include <nlohmann/json.hpp>

namespace braise::weights {

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMost = 160;
  const nlohmann::json shown = std::string(text.substr(0, kMost)) + (text.size() > kMost ? "..." : "");
  return shown.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_utf8(std::string_view text) {
  try {
    nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
  return true;
}

}  // namespace braise::weights
