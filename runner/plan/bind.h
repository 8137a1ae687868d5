// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "runner/plan/plan.h"

namespace braise::plan {

/// A completed job, as those that need it see it.
struct Completed {
  std::string attempt_dir;                        ///< relative to the run directory: "jobs/corpus/attempts/1-3fa9"
  std::map<std::string, stages::Output> outputs;  ///< by declared name
};

/// Fixes what depended on other jobs: puts "${run.dir}/<attempt_dir>/<path>" where the config refers to an output, and
/// computes the fingerprint. `completed` gives every needed job (an assertion).
stages::JobSpec bind(const Job& job, const std::function<const Completed&(const std::string& job)>& completed);

}  // namespace braise::plan
