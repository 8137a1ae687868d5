// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "stages/shared/io/json_lines.h"

namespace braise::journal {

/// Why `event` is none that schemas/event.schema.json allows; empty where it is. Cheap: a few microseconds.
std::string event_fault(const nlohmann::json& event);

/// One writer's events: appends to <journal>/<name>.jsonl, a file that nobody else writes.
class Writer {
 public:
  Writer(const std::filesystem::path& journal_dir, std::string name);

  /// Adds time, writer and seq to the event and appends it; returns after it is on the disk. The event must be one that
  /// the schema allows (an assertion). Errors: core::Error (a full disk, say).
  void append(nlohmann::json event);

  const std::string& name() const { return name_; }

 private:
  std::string name_;
  io::JsonLinesWriter lines_;
  std::int64_t next_seq_ = 0;
};

}  // namespace braise::journal
