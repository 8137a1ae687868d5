// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace braise::worker {

/// Makes this process die with its parent, however that dies. Call first thing.
void die_with_parent();

/// From now on USR1 asks for a checkpoint, TERM and USR2 for a stop; each may come any number of times. (mpirun
/// forwards USR1 and USR2; after a TERM of its own it gives ranks a second only, so runners send USR2.)
void catch_requests();

/// What signals have asked for since the start. Async-signal-safe counters: read them from any thread.
struct Requested {
  std::int64_t checkpoints = 0;
  bool stop = false;
};
Requested requested();

/// Keeps the calling thread from being the one that handles signals.
void block_signals();

}  // namespace braise::worker
