// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "runner/journal/run_directory.h"
#include "runner/plan/plan.h"

/// What a run's own files say.
namespace braise::journal {

/// plan.json. Errors: core::Error where it cannot be read or is no plan.
plan::Plan read_plan(const RunDirectory& run);

/// provenance.json, an object. Errors: core::Error where it cannot be read or is none.
nlohmann::json read_provenance(const RunDirectory& run);

}  // namespace braise::journal
