// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "stages/api/stage.h"
#include "stages/tokenize/shards.h"
#include "stages/tokenize/token_file.h"

namespace braise::tokenize {

/// A token file that is whole and on the disk.
struct FinishedShard {
  std::uint64_t bytes = 0;
  std::string sha256;
  TokenCounts counts;

  nlohmann::json to_json() const;
  static FinishedShard from_json(const nlohmann::json& json);
};

/// The shards of an attempt in its artifacts folder. A shard is finished once its manifest lies beside it: a small JSON
/// file with the file's length and digest, what it holds, and what it was made of.
class ShardStore {
 public:
  ShardStore(stages::StageContext& context, std::filesystem::path artifacts);

  /// Writes, publishes (read-only) and records a shard.
  FinishedShard write(std::size_t index, const Shard& shard, const ShardTokens& tokens);

  /// Takes a shard over that an earlier attempt at the same job has finished: its digest is verified, the file linked,
  /// not copied. Nothing where there is none that is good; a bad one is named in the log.
  std::optional<FinishedShard> take_over(std::size_t index, const Shard& shard);

 private:
  std::optional<FinishedShard> take_over_from(const std::filesystem::path& earlier, std::size_t index,
                                              const Shard& shard);
  nlohmann::json identity(std::size_t index, const Shard& shard) const;
  void record(std::size_t index, const Shard& shard, const FinishedShard& finished) const;

  stages::StageContext& context_;
  std::filesystem::path artifacts_;
};

/// Errors: core::Error that names the folder where its file system has fewer than `bytes` free.
void require_space(const std::filesystem::path& folder, std::uint64_t bytes);

/// Makes a finished file read-only, syncs it and gives it its name.
void publish_read_only(const std::filesystem::path& temporary, const std::filesystem::path& path);

}  // namespace braise::tokenize
