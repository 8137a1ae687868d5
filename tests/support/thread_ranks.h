// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "kernels/comm/communicator.h"

namespace braise::test {

/// Calls `work` on `ranks` threads of this process, each with the communicator of a rank. A message is done only once
/// both sides are there, so that nothing may rely on buffers in between. Returns when all have ended; rethrows what the
/// first to fail threw, after which the others' calls fail too rather than wait for it. Catch2's assertions are for one
/// thread: give results to the caller and check them there, or throw.
void with_ranks(int ranks, const std::function<void(comm::Communicator&)>& work);

}  // namespace braise::test
