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
  int place = -1;  ///< from 0: `job` is a `select` job, and meant is the job at this place of what it chose
};

/// That a job goes on with whichever point a `select` job chose: it has the configuration of the job at that place, and
/// begins with its checkpoint.
struct Choice {
  std::string select;
  int place = 0;
  std::int64_t until = 0;  ///< the step it ends after; 0: that of the training
};

/// One job: everything that can be fixed before it runs. What depends on which jobs ended well and which were chosen
/// is settled when they have ended (settle.h), what depends on other jobs' outputs (`links`) is bound then (bind.h).
struct Job {
  stages::JobSpec spec;  ///< spec.fingerprint is empty while links are unbound
  std::vector<Link> links;
  std::vector<std::string> needs;           ///< jobs that must be completed before, by name, sorted
  std::vector<std::string> candidates;      ///< jobs that must have ended before, well or not
  std::optional<Choice> choice;             ///< what the spec says instead is that of the first candidate
  std::vector<std::string> input_pointers;  ///< where spec.config names files from outside, as JSON pointers
  recipe::SlurmOptions slurm;
  nlohmann::json parameters;  ///< the swept paths and their values at this job; empty object without a sweep
  stages::Estimate estimate;
  stages::KnownModels models;                  ///< of those that links stand for; not in plan.json
  std::map<std::string, std::string> outputs;  ///< declared name -> path relative to the attempt's folder
};

/// A DAG of jobs in an order in which every job follows those it needs.
struct Plan {
  std::string recipe_name;
  std::int64_t seed = 0;
  std::vector<Job> jobs;

  const Job* find(const std::string& name) const;
  /// The jobs that must have ended, well or not, before this one can be settled: its candidates or, where it is of a
  /// point that is chosen, those it is chosen from.
  const std::vector<std::string>& awaited(const Job& job) const;
  nlohmann::json to_json() const;  ///< plan.json
  /// Errors: core::Error where it is no plan of this format, or has names that are none of folders.
  static Plan from_json(const nlohmann::json& json);
};

}  // namespace braise::plan
