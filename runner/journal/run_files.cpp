// SPDX-License-Identifier: Apache-2.0
#include "runner/journal/run_files.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json.h"

namespace braise::journal {

plan::Plan read_plan(const RunDirectory& run) {
  return plan::Plan::from_json(io::parse_json(io::read_file(run.plan_file())));
}

nlohmann::json read_provenance(const RunDirectory& run) {
  nlohmann::json told = nlohmann::json::parse(io::read_file(run.provenance_file()), nullptr, false);
  if (!told.is_object()) throw core::Error(run.provenance_file().string() + " is not what a run has of that name");
  return told;
}

}  // namespace braise::journal
