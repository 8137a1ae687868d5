// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/api/job.h"
#include "stages/worker/attempt.h"

namespace braise::worker {

/// Does one rank's part of a job, from MPI_Init to MPI_Finalize: 0 where the job is completed or stopped as asked.
/// Whatever goes wrong is logged, recorded in the attempt's folder and ends all ranks at once (exit status 1).
/// `job` is of a kind, version and device that this build has.
int run_rank(const stages::JobSpec& job, const Attempt& attempt);

}  // namespace braise::worker
