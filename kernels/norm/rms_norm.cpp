// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm/rms_norm.h"

#include "kernels/norm/norm_checks.h"
#include "kernels/norm/norm_cpu.h"

namespace braise::norm {

void rms_norm_forward(core::Stream& stream, const core::TensorView& y, const core::TensorView& inverse_std,
                      const core::ConstTensorView& x, const core::ConstTensorView& weight, float epsilon,
                      float weight_offset) {
  constexpr const char* kName = "rms_norm_forward";
  const core::Shape rows = statistics_shape(kName, x);
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_float_tensor(kName, "y", y, x.shape());
  require_optional(kName, "inverse_std", inverse_std, rows);
  require_channels(kName, "weight", weight, x);
  core::require(epsilon > 0, kName, "epsilon is not positive");
  core::require_cpu(stream, kName);
  cpu::forward(stream, {kName, false}, y, {}, inverse_std, x, weight, {}, epsilon, weight_offset);
}

void rms_norm_backward(core::Stream& stream, const core::TensorView& dx, const core::TensorView& dweight,
                       const core::ConstTensorView& dy, const core::ConstTensorView& x,
                       const core::ConstTensorView& inverse_std, const core::ConstTensorView& weight,
                       core::Accumulate accumulate, float weight_offset) {
  constexpr const char* kName = "rms_norm_backward";
  const core::Shape rows = statistics_shape(kName, x);
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_float_tensor(kName, "dy", dy, x.shape());
  core::require_tensor(kName, "dx", dx, x.dtype(), x.shape());
  require_optional(kName, "dweight", dweight, {x.extent(-1)});
  require_fp32(kName, "inverse_std", inverse_std, rows);
  require_channels(kName, "weight", weight, x);
  core::require_cpu(stream, kName);
  cpu::backward(stream, {kName, false}, dx, dweight, {}, dy, x, {}, inverse_std, weight, accumulate, weight_offset);
}

}  // namespace braise::norm
