// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

#include "kernels/activation/activation_cpu.h"

namespace braise::activation {

void activation_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                        Activation activation) {
  constexpr const char* kName = "activation_forward";
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_tensor(kName, "y", y, x.dtype(), x.shape());
  core::require_cpu(stream, kName);
  cpu::activation_forward(kName, y, x, activation);
}

void activation_backward(core::Stream& stream, const core::TensorView& dx, const core::ConstTensorView& dy,
                         const core::ConstTensorView& x, Activation activation, core::Accumulate accumulate) {
  constexpr const char* kName = "activation_backward";
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_tensor(kName, "dy", dy, x.dtype(), x.shape());
  core::require_tensor(kName, "dx", dx, x.dtype(), x.shape());
  core::require_cpu(stream, kName);
  cpu::activation_backward(kName, dx, dy, x, activation, accumulate);
}

}  // namespace braise::activation
