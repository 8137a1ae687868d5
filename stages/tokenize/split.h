// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "stages/tokenize/settings.h"

namespace braise::tokenize {

/// Whether document `index` of the corpus is kept for validation where whole documents are drawn. Depends on the three
/// values alone (Philox4x32-10 with the seed as key and the index as counter), never on ranks or shards.
bool is_validation_document(std::int64_t seed, std::uint64_t index, double fraction);

/// Where the validation part of a document begins where tails are kept: at the fraction counted from the end in bytes,
/// moved forward to just after the next newline; where that leaves nothing, to the next UTF-8 character.
std::size_t tail_begin(std::string_view document, double fraction);

/// The first 64 bits of Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
std::uint64_t philox(std::uint64_t key, std::uint64_t counter);

}  // namespace braise::tokenize
