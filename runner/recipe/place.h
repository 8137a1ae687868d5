// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "stages/shared/yaml/mark.h"

namespace braise::recipe {

/// Where a walk over a recipe stands: a chain of stack objects, spelled out only when something is to be said of it.
struct Place {
  const Place* parent = nullptr;     ///< nullptr: this is the root, whose key means nothing
  std::string_view key;              ///< of a map; must outlive the place
  std::size_t index = 0;             ///< of a list, where `key` has no data
  const yaml::Mark* mark = nullptr;  ///< of the key (or of the list's item), where known

  Place() = default;
  Place(const Place& above, std::string_view map_key, const yaml::Mark& key_mark)
      : parent(&above), key(map_key), mark(&key_mark) {}
  Place(const Place& above, std::size_t list_index, const yaml::Mark& item_mark)
      : parent(&above), index(list_index), mark(&item_mark) {}

  std::string segment() const { return key.data() != nullptr ? std::string(key) : std::to_string(index); }

  /// "stages.corpus.input.0"; empty for the root.
  std::string dotted() const {
    if (parent == nullptr) return {};
    const std::string above = parent->dotted();
    return above.empty() ? segment() : above + "." + segment();
  }

  /// JSON pointer from `base`, one of the places above, to here.
  std::string pointer_from(const Place& base) const {
    if (this == &base || parent == nullptr) return {};
    std::string escaped;
    for (const char c : segment())
      escaped += c == '~' ? std::string("~0") : c == '/' ? std::string("~1") : std::string(1, c);
    return parent->pointer_from(base) + "/" + escaped;
  }
};

}  // namespace braise::recipe
