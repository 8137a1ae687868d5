// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "stages/shared/hdf5/hdf5_file.h"
#include "stages/shared/text/tokenizer.h"
#include "stages/tokenize/settings.h"

namespace braise::tokenize {

/// Version of the layout that schemas/tokens.schema.json describes.
constexpr std::uint64_t kTokenFileVersion = 1;

/// How much one group (training or validation) of one file holds.
struct SideCounts {
  std::uint64_t tokens = 0;
  std::uint64_t documents = 0;
};

/// How much one file holds.
struct TokenCounts {
  SideCounts train;
  SideCounts validation;
};

/// The tokens of one shard while they gather in memory.
class ShardTokens {
 public:
  ShardTokens(const text::Tokenizer& tokenizer, const Validation& validation, std::int64_t seed);

  /// `index`: of the document in the whole corpus.
  void add(std::uint64_t index, std::string_view document);

  TokenCounts counts() const;
  /// What write() needs on the disk.
  std::uint64_t file_bytes() const;
  /// Writes the token file; it must not exist yet.
  void write(const std::filesystem::path& path) const;

 private:
  /// One group: 16 or 32 bits a token, whichever the vocabulary asks for; the other list stays empty.
  struct Side {
    std::vector<std::uint16_t> narrow;
    std::vector<std::uint32_t> wide;
    std::vector<std::uint64_t> document_offsets = {0};
  };
  void add_to(Side& side, std::string_view text);
  void write_side(hdf5::Writer& file, const std::string& group, const Side& side) const;

  const text::Tokenizer& tokenizer_;
  Validation validation_;
  std::int64_t seed_;
  Side train_;
  Side held_out_;
  std::vector<std::uint32_t> encoded_;
};

/// A finished shard, as the master file refers to it.
struct ShardPart {
  std::string file;  ///< name, in the same folder
  TokenCounts counts;
};

/// Writes the file that shows all shards as one. The shards must lie beside `path`.
void write_master_file(const std::filesystem::path& path, const text::Tokenizer& tokenizer,
                       const std::vector<ShardPart>& shards, const nlohmann::json& provenance);

}  // namespace braise::tokenize
