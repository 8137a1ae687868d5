// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runner/journal/run_directory.h"
#include "stages/shared/io/digest.h"

namespace braise::journal {

/// What a run directory of a test is made with.
inline RunFiles sample_files() {
  return {"recipe: 1\n", "recipe: 1\n", "{}\n", "{}\n"};
}

/// An event as its writer leaves it.
inline nlohmann::json sample_event(const std::string& what, nlohmann::json details = nlohmann::json::object()) {
  details["event"] = what;
  return details;
}

inline nlohmann::json attempt_event(const std::string& what, const AttemptName& attempt,
                                    nlohmann::json details = nlohmann::json::object()) {
  details["job"] = attempt.job;
  details["attempt"] = attempt.number;
  details["token"] = attempt.token;
  return sample_event(what, std::move(details));
}

inline nlohmann::json sample_outputs(const std::string& text) {
  return {{"out", {{"files", {{{"path", "artifacts/out"}, {"bytes", text.size()}, {"sha256", io::sha256(text)}}}}}}};
}

inline std::string sample_fingerprint(char digit = '0') {
  return std::string(64, digit);
}

}  // namespace braise::journal
