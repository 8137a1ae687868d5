// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/rope.h"

#include "kernels/attention/rope_cpu.h"

namespace braise::attention {
namespace {

void check(core::Stream& stream, const char* operation, const char* to, const core::TensorView& y, const char* from,
           const core::ConstTensorView& x, const RopeTable& table, const RopePositions& positions) {
  core::require_float_tensor(operation, from, x, x.shape());
  core::require(x.rank() == 4, operation, "the tensor is not B x T x H x D");
  core::require_tensor(operation, to, y, x.dtype(), x.shape());
  core::require(x.rows_contiguous() && y.rows_contiguous(), operation, "the last dimension is not contiguous");
  core::require(static_cast<bool>(table.cos.view), operation, "there is no table");
  core::require(2 * table.cos.view.extent(1) <= x.extent(3), operation, "the table has more channels than a head");
  if (positions.ids) {
    core::require_tensor(operation, "positions", positions.ids, core::Dtype::kInt32, {x.extent(0), x.extent(1)});
    core::require(positions.ids.contiguous(), operation, "positions are not contiguous");
  } else {
    core::require(positions.first >= 0 && positions.first + x.extent(1) <= table.cos.view.extent(0), operation,
                  "a position is not in the table");
  }
  core::require_cpu(stream, operation);
}

}  // namespace

void rope_forward(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                  const RopeTable& table, const RopePositions& positions, RopePairing pairing) {
  constexpr const char* kName = "rope_forward";
  check(stream, kName, "y", y, "x", x, table, positions);
  cpu::rope(kName, y, x, table, positions, pairing, false);
}

void rope_backward(core::Stream& stream, const core::TensorView& dx, const core::ConstTensorView& dy,
                   const RopeTable& table, const RopePositions& positions, RopePairing pairing) {
  constexpr const char* kName = "rope_backward";
  check(stream, kName, "dx", dx, "dy", dy, table, positions);
  cpu::rope(kName, dx, dy, table, positions, pairing, true);
}

}  // namespace braise::attention
