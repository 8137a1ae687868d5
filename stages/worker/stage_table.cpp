// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/stage_table.h"

namespace braise {

#define BRAISE_STAGE_KIND(kind)                                                \
  namespace kind {                                                             \
  stages::Ending run(stages::StageContext& context, stages::Outputs& outputs); \
  }
#include "stages/kinds.inc"
#undef BRAISE_STAGE_KIND

namespace worker {
namespace {

struct Entry {
  std::string_view kind;
  StageWork work;
};

constexpr Entry kTable[] = {
#define BRAISE_STAGE_KIND(kind) {#kind, kind::run},
#include "stages/kinds.inc"
#undef BRAISE_STAGE_KIND
};

}  // namespace

StageWork find_work(std::string_view kind) {
  for (const Entry& entry : kTable) {
    if (entry.kind == kind) return entry.work;
  }
  return nullptr;
}

}  // namespace worker
}  // namespace braise
