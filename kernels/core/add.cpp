// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/add.h"

#include "kernels/core/add_cpu.h"

namespace braise::core {

void add(Stream& stream, const TensorView& sum, const ConstTensorView& x) {
  require_float_tensor("add", "sum", sum, x.shape());
  require_float_tensor("add", "x", x, x.shape());
  require_cpu(stream, "add");
  cpu::add(sum, x);
}

}  // namespace braise::core
