// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/text/text_source.h"

namespace braise::text {

/// The bytes of a regular file as they lie on the disk, read in order.
class RawFile {
 public:
  RawFile(std::filesystem::path path, SourceOptions options);

  /// The next bytes, valid until the next call; empty at the end.
  std::string_view read();
  void seek(std::uint64_t offset);

  std::uint64_t offset() const { return offset_; }  ///< after what read() gave last
  std::string sha256();
  FileIdentity identity() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  SourceOptions options_;
  io::FileDescriptor file_;
  std::vector<char> buffer_;
  std::uint64_t offset_ = 0;
  std::optional<io::Sha256> digest_;
};

std::unique_ptr<TextSource> open_gzip(RawFile file);
std::unique_ptr<TextSource> open_zstd(RawFile file);

}  // namespace braise::text
