// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/core/random.h"

namespace braise::activation::cpu {

// The operations of activation.h, gated.h and dropout.h for arguments that were checked; `operation` names the caller.

void activation_forward(const char* operation, const core::TensorView& y, const core::ConstTensorView& x,
                        Activation activation);

void activation_backward(const char* operation, const core::TensorView& dx, const core::ConstTensorView& dy,
                         const core::ConstTensorView& x, Activation activation, core::Accumulate accumulate);

void gated_forward(const char* operation, const core::TensorView& y, const core::ConstTensorView& gate,
                   const core::ConstTensorView& up, Activation activation);

void gated_backward(const char* operation, const core::TensorView& dgate, const core::TensorView& dup,
                    const core::ConstTensorView& dy, const core::ConstTensorView& gate, const core::ConstTensorView& up,
                    Activation activation, core::Accumulate accumulate);

/// y = f(x) and y = f(gate) up for `count` elements that stand side by side, on the calling thread.
void activate_row(core::Dtype dtype, Activation activation, void* y, const void* x, std::size_t count);
void gate_row(core::Dtype dtype, Activation activation, void* y, const void* gate, const void* up, std::size_t count);

void dropout(const char* operation, const core::TensorView& y, const core::ConstTensorView& x, double probability,
             const core::RandomStream& random, std::uint64_t first_element, core::Accumulate accumulate);

}  // namespace braise::activation::cpu
