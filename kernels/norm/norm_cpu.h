// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/core/accumulate.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::norm::cpu {

/// The two norms, which differ by their name and by whether rows are centered.
struct Norm {
  const char* operation;
  bool centered;
};

/// rms_norm_forward and layer_norm_forward for arguments that were checked; those that a norm has not are empty.
void forward(core::Stream& stream, const Norm& norm, const core::TensorView& y, const core::TensorView& mean,
             const core::TensorView& inverse_std, const core::ConstTensorView& x, const core::ConstTensorView& weight,
             const core::ConstTensorView& bias, float epsilon, float weight_offset);

/// rms_norm_backward and layer_norm_backward, likewise.
void backward(core::Stream& stream, const Norm& norm, const core::TensorView& dx, const core::TensorView& dweight,
              const core::TensorView& dbias, const core::ConstTensorView& dy, const core::ConstTensorView& x,
              const core::ConstTensorView& mean, const core::ConstTensorView& inverse_std,
              const core::ConstTensorView& weight, core::Accumulate accumulate, float weight_offset);

}  // namespace braise::norm::cpu
