// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/all_reduce.h"

#include "kernels/comm/collectives.h"
#include "kernels/core/error.h"

namespace braise::comm {

void all_reduce_sum(Communicator& comm, core::Stream& stream, std::span<const core::TensorView> tensors) {
  for (const core::TensorView& tensor : tensors) {
    core::require(tensor.dtype() == core::Dtype::kFloat32 && tensor.contiguous(), "all_reduce_sum",
                  "tensors must be fp32 and contiguous");
  }
  if (comm.size() == 1) return;
  stream.synchronize();
  Collectives(comm, stream.arena(), "data").all_reduce_sum(tensors, core::Category::kGradients).wait();
}

}  // namespace braise::comm
