// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/gated.h"

#include "kernels/activation/activation_cpu.h"

namespace braise::activation {

void gated_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& gate,
                   const core::ConstTensorView& up, Activation activation) {
  constexpr const char* kName = "gated_forward";
  core::require_float_tensor(kName, "gate", gate, gate.shape());
  core::require_tensor(kName, "up", up, gate.dtype(), gate.shape());
  core::require_tensor(kName, "y", y, gate.dtype(), gate.shape());
  core::require_cpu(stream, kName);
  cpu::gated_forward(kName, y, gate, up, activation);
}

void gated_backward(core::Stream& stream, const core::TensorView& dgate, const core::TensorView& dup,
                    const core::ConstTensorView& dy, const core::ConstTensorView& gate, const core::ConstTensorView& up,
                    Activation activation, core::Accumulate accumulate) {
  constexpr const char* kName = "gated_backward";
  core::require_float_tensor(kName, "gate", gate, gate.shape());
  core::require_tensor(kName, "up", up, gate.dtype(), gate.shape());
  core::require_tensor(kName, "dy", dy, gate.dtype(), gate.shape());
  core::require_tensor(kName, "dgate", dgate, gate.dtype(), gate.shape());
  core::require_tensor(kName, "dup", dup, gate.dtype(), gate.shape());
  core::require_cpu(stream, kName);
  cpu::gated_backward(kName, dgate, dup, dy, gate, up, activation, accumulate);
}

}  // namespace braise::activation
