// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/tier.h"

namespace braise::linear {

/// core::settle_tier, and holds oneDNN to that tier: to be called before anything else in the process uses oneDNN.
/// Errors: core::Error where it has been used already.
core::Tier settle_tier();

}  // namespace braise::linear
