// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runner/journal/event.h"
#include "runner/journal/finished.h"
#include "runner/schedule/attempt.h"

namespace braise::schedule {

/// An event about an attempt, with its names.
nlohmann::json event_of(const char* what, const journal::AttemptName& attempt);

// The events that runners and supervisors write alike.
void record_started(journal::Writer& writer, const journal::AttemptName& attempt, const stages::JobSpec& spec,
                    const nlohmann::json& cores);
void record_ended(journal::Writer& writer, const journal::AttemptName& attempt, const launch::Ending& ending,
                  const Verdict& verdict);
void record_completed(journal::Writer& writer, const journal::AttemptName& attempt, const std::string& fingerprint,
                      const plan::Completed& completed);
void record_reused(journal::Writer& writer, const journal::AttemptName& attempt, const std::string& fingerprint,
                   const plan::Completed& completed, const journal::FinishedJob& from);

/// Whether a kind's outputs may stand for those of an equal job.
bool is_reusable(const std::string& kind);

/// Writes job.yaml unless it says that already.
void write_job_file(const journal::RunDirectory& run, const stages::JobSpec& spec);

}  // namespace braise::schedule
