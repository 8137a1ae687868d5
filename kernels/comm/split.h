// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/comm/communicator.h"

namespace braise::comm {

/// Where `rank` stands in a list given to Communicator::split.
/// Errors: core::Error where it does not, or one stands twice, or is none of `size`.
int place_in(std::span<const int> ranks, int rank, int size);

/// Whether all ranks of a part gave the same list. Collective on the part. Errors: core::Error where they did not.
void check_split(Communicator& part, std::span<const int> ranks);

}  // namespace braise::comm
