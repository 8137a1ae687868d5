// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/comm/communicator.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::comm {

/// Each tensor = the sum of all ranks' tensors, element by element, in fp32, by a pairwise tree over the ranks:
///
///     (x[0] + x[1]) + (x[2] + x[3]) + ...; a rank without a partner goes up as it is
///
/// so where each rank's tensor is the tree of an aligned power-of-two block of terms, the result is the tree of all of
/// them, whatever the number of ranks. tensors: fp32, contiguous, of the same shapes in the same order on every rank;
/// they are sent as if they lay one after another. A direct exchange: each rank sums a part that all send it, and sends
/// the result to all, so 2 (n - 1) / n of the bytes leave each of n ranks, as in a ring. Workspace: two buffers of at
/// most 16 MiB, of category communication. Call on every rank. Errors: core::Error.
void all_reduce_sum(Communicator& comm, core::Stream& stream, std::span<const core::TensorView> tensors);

}  // namespace braise::comm
