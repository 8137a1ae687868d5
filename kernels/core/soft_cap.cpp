// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/soft_cap.h"

#include <cmath>

#include "kernels/core/soft_cap_cpu.h"

namespace braise::core {

void soft_cap(Stream& stream, const TensorView& x, float cap) {
  require_tensor("soft_cap", "x", x, Dtype::kFloat32, x.shape());
  require(cap > 0 && std::isfinite(cap), "soft_cap", "the cap must be positive and finite");
  require_cpu(stream, "soft_cap");
  cpu::soft_cap(x, cap);
}

}  // namespace braise::core
