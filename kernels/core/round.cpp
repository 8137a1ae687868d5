// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/round.h"

#include "kernels/core/round_cpu.h"

namespace braise::core {

void round_to(Stream& stream, const TensorView& x, Dtype dtype) {
  require_tensor("round_to", "x", x, Dtype::kFloat32, x.shape());
  require(is_float(dtype), "round_to", "rounds to floating-point dtypes");
  require_cpu(stream, "round_to");
  if (dtype != Dtype::kFloat32) cpu::round_to(x, dtype);
}

}  // namespace braise::core
