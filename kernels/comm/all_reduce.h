// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "kernels/comm/communicator.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::comm {

/// Collectives::all_reduce_sum for one time, done when it returns. tensors: fp32, contiguous, of the same shapes in the
/// same order on every rank. Call on every rank, with no Collectives on `comm`. Errors: core::Error.
void all_reduce_sum(Communicator& comm, core::Stream& stream, std::span<const core::TensorView> tensors);

}  // namespace braise::comm
