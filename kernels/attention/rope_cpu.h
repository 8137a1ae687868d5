// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention/rope.h"

namespace braise::attention::cpu {

/// rope_forward, and with `back` rope_backward, for arguments that were checked, but for the positions' values.
void rope(const char* operation, const core::TensorView& y, const core::ConstTensorView& x, const RopeTable& table,
          const RopePositions& positions, RopePairing pairing, bool back);

}  // namespace braise::attention::cpu
