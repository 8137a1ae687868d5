// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/sgd.h"

#include "kernels/optimizer/checks.h"
#include "kernels/optimizer/sgd_cpu.h"

namespace braise::optimizer {

void sgd_step(core::Stream& stream, const Slice& slice, const core::TensorView& m, const Sgd& options,
              std::int64_t step) {
  constexpr const char* kName = "sgd_step";
  check_slice(kName, slice);
  check_state(kName, "m", m, slice, options.momentum != 0);
  check_step(kName, step);
  core::require(!options.nesterov || (options.momentum != 0 && options.dampening == 0), kName,
                "nesterov asks for momentum without dampening");
  core::require_cpu(stream, kName);
  cpu::sgd_step(slice, m,
                {.negative_rate = static_cast<float>(-options.learning_rate),
                 .weight_decay = static_cast<float>(options.weight_decay),
                 .momentum = static_cast<float>(options.momentum),
                 .undamped = static_cast<float>(1.0 - options.dampening),
                 .nesterov = options.nesterov,
                 .first = step == 1});
}

}  // namespace braise::optimizer
