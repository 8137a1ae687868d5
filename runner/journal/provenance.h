// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runner/plan/plan.h"

namespace braise::journal {

/// What provenance.json tells besides what it finds out itself (time, working directory, host, build).
struct Provenance {
  std::vector<std::string> command;
  int cores = 0;                   ///< that the runner may use
  std::uint64_t memory_bytes = 0;  ///< likewise
  std::vector<recipe::Source> sources;
  recipe::Overrides overrides;
  std::map<std::string, std::string> environment;  ///< what the recipe lists under `env`
};

/// The text of provenance.json; schema: schemas/provenance.schema.json.
std::string provenance_text(const Provenance& provenance);

}  // namespace braise::journal
