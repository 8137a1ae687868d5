// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stages/api/descriptor.h"
#include "stages/api/job.h"

namespace braise::plan {

/// A short `check` of the nodes that a job is to run on, with as many ranks: that each node has the memory the job may
/// use and the room it is estimated to need, that ranks reach each other, and that they compute. Named
/// `<job>.preflight`.
stages::JobSpec preflight_of(const stages::JobSpec& job, const stages::Estimate& estimate);

}  // namespace braise::plan
