// SPDX-License-Identifier: Apache-2.0
#include "schemas/schemas.h"

#include <cassert>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

namespace braise::schemas {

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const EmbeddedSchema* entry = kEmbedded; entry->name != nullptr; ++entry) result.emplace_back(entry->name);
  return result;
}

const char* text(std::string_view name) {
  for (const EmbeddedSchema* entry = kEmbedded; entry->name != nullptr; ++entry) {
    if (name == entry->name) return entry->text;
  }
  return nullptr;
}

const nlohmann::json& schema(std::string_view name) {
  static std::mutex mutex;
  static std::map<std::string, nlohmann::json, std::less<>> parsed;
  const std::lock_guard lock(mutex);
  auto found = parsed.find(name);
  if (found == parsed.end()) {
    const char* source = text(name);
    assert(source != nullptr && "a schema that is not embedded");
    found = parsed.emplace(std::string(name), nlohmann::json::parse(source)).first;
  }
  return found->second;
}

}  // namespace braise::schemas
