// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"

namespace braise::io {

/// One writer's file of JSON objects, one a line, appended to.
class JsonLinesWriter {
 public:
  /// Opens (creating where missing) for appending. A torn last line that a killed writer left is ended first, so that
  /// it cannot swallow the next one.
  explicit JsonLinesWriter(std::filesystem::path path);

  /// Appends one line in a single write. With `durable`, returns after it is on the disk (fsync).
  /// Errors: core::Error naming the file (a full disk, say).
  void append(const nlohmann::json& object, bool durable);

  /// Returns when all lines so far are on the disk. May be called from another thread than append. Errors: as append's.
  void sync();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

/// What a file of JSON lines holds. A reader may meet a file that is being written or whose writer was killed.
struct JsonLines {
  std::vector<nlohmann::json> objects;
  std::vector<std::size_t> lines;     ///< the line number of each object, from 1
  std::vector<std::string> warnings;  ///< "events.jsonl:12: torn line dropped", one for each line that is not JSON
};

JsonLines read_json_lines(const std::filesystem::path& path);

}  // namespace braise::io
