// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "stages/shared/io/json_lines.h"

namespace braise::worker {

/// metrics.jsonl of an attempt. Schema of a line: schemas/metrics.schema.json.
class Metrics {
 public:
  explicit Metrics(const std::filesystem::path& path);
  ~Metrics();

  /// Appends a line with the time put in. Errors: core::Error where the values are not as the schema says.
  void append(nlohmann::json values);

  /// Returns when all lines so far are on the disk. Any thread.
  void sync() { file_.sync(); }

 private:
  struct Schema;
  std::unique_ptr<Schema> schema_;
  io::JsonLinesWriter file_;
};

}  // namespace braise::worker
