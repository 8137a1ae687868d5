// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/optimizer/slice.h"

namespace braise::optimizer {

/// Errors: core::Error unless the tensors of a slice go together.
void check_slice(const char* operation, const Slice& slice);

/// Errors: core::Error unless `state` is there when it is needed, and of the slice's shape.
void check_state(const char* operation, const char* argument, const core::TensorView& state, const Slice& slice,
                 bool needed);

/// Errors: core::Error for a step below 1.
void check_step(const char* operation, std::int64_t step);

}  // namespace braise::optimizer
