// SPDX-License-Identifier: Apache-2.0
#include "stages/registry.h"

namespace braise {

#define BRAISE_STAGE_KIND(kind)                    \
  namespace kind {                                 \
  const stages::StageDescriptor& descriptor();     \
  }
#include "stages/kinds.inc"
#undef BRAISE_STAGE_KIND

namespace stages {

const std::vector<const StageDescriptor*>& registry() {
  static const std::vector<const StageDescriptor*> kinds = {
#define BRAISE_STAGE_KIND(kind) &kind::descriptor(),
#include "stages/kinds.inc"
#undef BRAISE_STAGE_KIND
  };
  return kinds;
}

const StageDescriptor* find_kind(std::string_view kind) {
  for (const StageDescriptor* entry : registry()) {
    if (kind == entry->kind) return entry;
  }
  return nullptr;
}

}  // namespace stages
}  // namespace braise
