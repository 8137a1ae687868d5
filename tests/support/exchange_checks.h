// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/comm/communicator.h"

namespace braise::test {

/// Runs every operation of Collectives over `comm` in many sizes and dtypes, and throws core::Error for the first
/// element that is not what it must be. Call on every rank.
void exchange_checks(comm::Communicator& comm);

}  // namespace braise::test
