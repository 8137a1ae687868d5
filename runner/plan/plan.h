// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runner/recipe/recipe.h"
#include "stages/api/descriptor.h"
#include "stages/api/fault.h"
#include "stages/api/job.h"

namespace braise::plan {

/// An output of another job that a job's config refers to.
struct Link {
  std::string pointer;  ///< JSON pointer into the job's config
  std::string text;     ///< what stands for it there: "${stages.corpus.tokens}"
  std::string job;
  std::string output;
};

/// One job: everything that can be fixed before it runs. What depends on other jobs' outputs (`links`) is bound when
/// they are there, see bind.h.
struct Job {
  stages::JobSpec spec;  ///< spec.fingerprint is empty while links are unbound
  std::vector<Link> links;
  std::vector<std::string> needs;           ///< jobs that must be completed before, by name, sorted
  std::vector<std::string> input_pointers;  ///< where spec.config names files from outside, as JSON pointers
  recipe::SlurmOptions slurm;
  nlohmann::json parameters;  ///< the swept paths and their values at this job; empty object without a sweep
  stages::Estimate estimate;
  std::map<std::string, std::string> outputs;  ///< declared name -> path relative to the attempt's folder
};

/// A DAG of jobs in an order in which every job follows those it needs.
struct Plan {
  std::string recipe_name;
  std::int64_t seed = 0;
  std::vector<Job> jobs;

  const Job* find(const std::string& name) const;
  nlohmann::json to_json() const;  ///< plan.json; schema: schemas/plan.schema.json
  static Plan from_json(const nlohmann::json& json);
};

}  // namespace braise::plan
