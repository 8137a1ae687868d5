// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/tensor.h"

namespace braise::norm {

/// The shape of one number for each row of `x`: its shape without the last dimension, which must not be empty.
core::Shape statistics_shape(const char* operation, const core::ConstTensorView& x);

/// Checks a contiguous fp32 tensor. Errors: core::Error.
void require_fp32(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                  const core::Shape& shape);

/// The same, unless there is no tensor.
void require_optional(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                      const core::Shape& shape);

/// Checks a contiguous floating-point [C]. Errors: core::Error.
void require_channels(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                      const core::ConstTensorView& x);

}  // namespace braise::norm
