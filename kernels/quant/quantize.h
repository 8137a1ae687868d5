// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::quant {

/// Rounds each group of `group` neighbouring elements of a row (the last may be short) to integers with a scale of
/// their own:
///
///     limit = 127 (int8) or 7 (int4)
///     scale = max |x| over the group / limit
///     q[i]  = round(x[i] / scale) to nearest, ties to even, held within [-limit, limit]
///
/// A group whose scale is 0 (all its elements are 0, or too small for limit times less to be an fp32) gets q = 0. A
/// group that holds an infinity or a NaN gets scale NaN and q = 0, so that what went wrong is seen after
/// dequantize_groups.
///
/// x: fp32, bf16 or fp16, ... x C; q: int8 or int4, the same shape; scales: fp32, ... x ceil(C / group). Rows may be
/// padded, except those of int4. The high half of an int4 row's last byte is 0 for odd C. Arithmetic: fp32, both
/// divisions IEEE. No two may overlap. The same bits for every thread count and tier. Errors: core::Error for other
/// shapes or dtypes, group < 1. Source: Yao et al., "ZeroQuant", NeurIPS 2022, section 4.1 (group-wise symmetric
/// quantization).
void quantize_groups(core::Stream& stream, const core::TensorView& q, const core::TensorView& scales,
                     const core::ConstTensorView& x, std::int64_t group);

/// out[i] = q[i] * scale of its group, in fp32, rounded once more where out is bf16 or fp16.
///
/// out: fp32, bf16 or fp16, ... x C; q and scales as quantize_groups makes them (-128 and -8 are taken for what they
/// are). Rows may be padded, except those of int4. No two may overlap. The same bits for every thread count and tier.
/// Errors: core::Error for other shapes or dtypes, group < 1.
void dequantize_groups(core::Stream& stream, const core::TensorView& out, const core::ConstTensorView& q,
                       const core::ConstTensorView& scales, std::int64_t group);

}  // namespace braise::quant
