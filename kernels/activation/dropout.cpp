// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/dropout.h"

#include "kernels/activation/activation_cpu.h"

namespace braise::activation {

void dropout(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x, double probability,
             const core::RandomStream& random, std::uint64_t first_element, core::Accumulate accumulate) {
  constexpr const char* kName = "dropout";
  core::require_float_tensor(kName, "x", x, x.shape());
  core::require_tensor(kName, "y", y, x.dtype(), x.shape());
  core::require(probability >= 0 && probability < 1, kName, "probability is not in [0, 1)");
  core::require_cpu(stream, kName);
  cpu::dropout(kName, y, x, probability, random, first_element, accumulate);
}

}  // namespace braise::activation
