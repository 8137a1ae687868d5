// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kernels/comm/communicator.h"
#include "stages/api/job.h"

namespace braise::worker {

/// What ranks tell each other at the start.
struct RankFacts {
  std::string host;
  std::int64_t pid = 0;
  std::string job_sha256;    ///< of the job.yaml as this rank read it
  std::string build_sha256;  ///< of build_identity()
};

/// Gathers every rank's facts and checks that all are at the same job with the same program, as many as the job wants.
/// Errors: core::Error naming ranks that differ. Collective.
std::vector<RankFacts> agree(comm::Communicator& comm, const stages::JobSpec& job, const RankFacts& mine);

}  // namespace braise::worker
