// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/shards.h"

#include <cstdio>

namespace braise::tokenize {
namespace {

std::string numbered(std::size_t index, const char* suffix) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%05zu", index);
  return std::string("tokens.") + digits + suffix;
}

}  // namespace

std::vector<Shard> plan_shards(const std::vector<FileScan>& scans, std::uint64_t shard_bytes) {
  std::vector<Shard> shards;
  Shard open;
  for (const FileScan& scan : scans) {
    scan.lengths.for_each([&](std::uint64_t length) {
      ++open.documents;
      open.text_bytes += length;
      if (open.text_bytes < shard_bytes) return;
      shards.push_back(open);
      open = {open.first_document + open.documents, 0, 0};
    });
  }
  if (open.documents > 0) shards.push_back(open);
  return shards;
}

std::vector<std::size_t> deal_shards(const std::vector<Shard>& shards, int ranks) {
  std::uint64_t total = 0;
  for (const Shard& shard : shards) total += shard.text_bytes;
  std::vector<std::size_t> begins(static_cast<std::size_t>(ranks) + 1, shards.size());
  begins[0] = 0;
  std::size_t next_rank = 1;
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    // A shard belongs to the rank in whose equal part of the text its middle lies.
    const double middle = static_cast<double>(before) + static_cast<double>(shards[i].text_bytes) / 2;
    const auto owner = static_cast<std::size_t>(middle / static_cast<double>(total) * ranks);
    while (next_rank <= owner && next_rank < begins.size() - 1) begins[next_rank++] = i;
    before += shards[i].text_bytes;
  }
  return begins;
}

std::string shard_file(std::size_t index) {
  return numbered(index, ".h5");
}
std::string shard_manifest(std::size_t index) {
  return numbered(index, ".json");
}

}  // namespace braise::tokenize
