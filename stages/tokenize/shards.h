// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "stages/tokenize/corpus.h"

namespace braise::tokenize {

/// The documents that go into one token file.
struct Shard {
  std::uint64_t first_document = 0;  ///< index in the whole corpus
  std::uint64_t documents = 0;
  std::uint64_t text_bytes = 0;
};

/// Cuts the corpus into shards: consecutive documents until `shard_bytes` of text are reached.
std::vector<Shard> plan_shards(const std::vector<FileScan>& scans, std::uint64_t shard_bytes);

/// Deals the shards to the ranks in contiguous blocks of about equal text: rank r has those from result[r] to before
/// result[r + 1].
std::vector<std::size_t> deal_shards(const std::vector<Shard>& shards, int ranks);

/// "tokens.00042.h5", "tokens.00042.json".
std::string shard_file(std::size_t index);
std::string shard_manifest(std::size_t index);

}  // namespace braise::tokenize
