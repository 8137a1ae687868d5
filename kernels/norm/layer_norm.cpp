// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm/layer_norm.h"

#include "kernels/norm/norm_checks.h"
#include "kernels/norm/norm_cpu.h"

namespace braise::norm {

void layer_norm_forward(core::Stream& stream, const core::TensorView& y, const core::TensorView& mean,
                        const core::TensorView& inverse_std, const core::ConstTensorView& x,
                        const core::ConstTensorView& weight, const core::ConstTensorView& bias, float epsilon) {
  constexpr const char* kName = "layer_norm_forward";
  const core::Shape rows = statistics_shape(kName, x);
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_float_tensor(kName, "y", y, x.shape());
  require_optional(kName, "mean", mean, rows);
  require_optional(kName, "inverse_std", inverse_std, rows);
  require_channels(kName, "weight", weight, x);
  if (bias) require_channels(kName, "bias", bias, x);
  core::require(epsilon > 0, kName, "epsilon is not positive");
  core::require_cpu(stream, kName);
  cpu::forward(stream, {kName, true}, y, mean, inverse_std, x, weight, bias, epsilon, 0.0f);
}

void layer_norm_backward(core::Stream& stream, const core::TensorView& dx, const core::TensorView& dweight,
                         const core::TensorView& dbias, const core::ConstTensorView& dy, const core::ConstTensorView& x,
                         const core::ConstTensorView& mean, const core::ConstTensorView& inverse_std,
                         const core::ConstTensorView& weight, core::Accumulate accumulate) {
  constexpr const char* kName = "layer_norm_backward";
  const core::Shape rows = statistics_shape(kName, x);
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_float_tensor(kName, "dy", dy, x.shape());
  core::require_tensor(kName, "dx", dx, x.dtype(), x.shape());
  require_optional(kName, "dweight", dweight, {x.extent(-1)});
  require_optional(kName, "dbias", dbias, {x.extent(-1)});
  require_fp32(kName, "mean", mean, rows);
  require_fp32(kName, "inverse_std", inverse_std, rows);
  require_channels(kName, "weight", weight, x);
  core::require_cpu(stream, kName);
  cpu::backward(stream, {kName, true}, dx, dweight, dbias, dy, x, mean, inverse_std, weight, accumulate, 0.0f);
}

}  // namespace braise::norm
