// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "stages/api/job.h"
#include "stages/shared/data/dataset.h"

namespace braise::train {

/// What a job trains on, as its job.yaml says.
struct DataConfig {
  data::DatasetSettings settings;
  std::vector<data::Source> sources;
  nlohmann::json tokenizer;  ///< of examples; null for token files
  int prefetch = 0;
};

DataConfig data_config(const stages::JobSpec& job);

/// Holds the files from outside the run against the digests they had when the run was planned.
/// Errors: core::Error naming the file.
void verify_inputs(const stages::JobSpec& job);

}  // namespace braise::train
