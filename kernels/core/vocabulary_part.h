// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace braise::core {

/// Which tokens a table or a head has rows for, where it has not all of them.
struct VocabularyPart {
  std::int64_t first = 0;       ///< the token of its first row
  std::int64_t vocabulary = 0;  ///< V; 0: as many as it has rows, which is all
};

}  // namespace braise::core
