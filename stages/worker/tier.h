// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "kernels/core/tier.h"
#include "stages/api/job.h"
#include "stages/worker/attempt.h"

namespace braise::worker {

/// The instruction-set tier that this process is to settle on: what the job pins (numerics.tier, of kinds that have it), else that
/// of rank `rank` in the latest attempt before this one, so that what it began goes on with the same bits, else the
/// highest there is. Where the processor lacks an earlier attempt's tier, the log is told.
/// Errors: core::Error for a pinned tier that the processor lacks.
core::Tier choose_tier(const stages::JobSpec& job, const Attempt& attempt, int rank,
                       const std::function<void(const std::string&)>& log);

}  // namespace braise::worker
