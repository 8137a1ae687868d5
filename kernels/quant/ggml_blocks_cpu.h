// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/tensor.h"

namespace braise::quant::cpu {

/// The operations of ggml_blocks.h for checked arguments, rows x C and rows x bytes, with elements.
void dequantize_q8_0(const core::TensorView& out, const core::ConstTensorView& blocks);
void dequantize_q4_0(const core::TensorView& out, const core::ConstTensorView& blocks);
void dequantize_q4_1(const core::TensorView& out, const core::ConstTensorView& blocks);

}  // namespace braise::quant::cpu
