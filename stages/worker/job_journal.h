// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "stages/shared/io/json_lines.h"
#include "stages/worker/attempt.h"

namespace braise::worker {

/// The journal of an attempt, which its rank 0 alone writes. Schema of an event: schemas/event.schema.json.
class JobJournal {
 public:
  /// Errors: core::Error where the attempt has been started before: a token is used once, whatever a scheduler repeats.
  JobJournal(const Attempt& attempt, std::string job);

  /// Appends an event and returns when it is on the disk. `details` holds the event's own keys; job, attempt, token and
  /// what every event has are put in.
  void append(const char* event, nlohmann::json details);

 private:
  std::string job_;
  int attempt_;
  std::string token_;
  int next_seq_ = 0;
  io::JsonLinesWriter file_;
};

}  // namespace braise::worker
