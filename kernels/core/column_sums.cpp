// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/column_sums.h"

#include "kernels/core/column_sums_cpu.h"

namespace braise::core {

void add_column_sums(Stream& stream, const TensorView& sums, const ConstTensorView& x) {
  constexpr const char* kName = "add_column_sums";
  require(x && x.rank() >= 1, kName, "x needs a dimension");
  require_float_tensor(kName, "x", x, x.shape());
  require(x.rows_contiguous(), kName, "the rows of x are not contiguous");
  require_tensor(kName, "sums", sums, Dtype::kFloat32, Shape{x.extent(-1)});
  require(sums.contiguous(), kName, "sums is not contiguous");
  require_cpu(stream, kName);
  cpu::add_column_sums(stream, sums, x.as_rows());
}

}  // namespace braise::core
