// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/rms_prop.h"

#include "kernels/optimizer/checks.h"
#include "kernels/optimizer/rms_prop_cpu.h"

namespace braise::optimizer {

void rms_prop_step(core::Stream& stream, const Slice& slice, const core::TensorView& v, const core::TensorView& a,
                   const core::TensorView& m, const RmsProp& options) {
  constexpr const char* kName = "rms_prop_step";
  check_slice(kName, slice);
  check_state(kName, "v", v, slice, true);
  check_state(kName, "a", a, slice, options.centered);
  check_state(kName, "m", m, slice, options.momentum != 0);
  core::require_cpu(stream, kName);
  cpu::rms_prop_step(slice, v, a, m,
                     {.negative_rate = static_cast<float>(-options.learning_rate),
                      .kept = static_cast<float>(options.alpha),
                      .taken = static_cast<float>(1.0 - options.alpha),
                      .epsilon = static_cast<float>(options.epsilon),
                      .weight_decay = static_cast<float>(options.weight_decay),
                      .momentum = static_cast<float>(options.momentum)});
}

}  // namespace braise::optimizer
