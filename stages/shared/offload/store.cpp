// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/offload/store.h"

#include "kernels/core/error.h"

namespace braise::offload {

void Store::check(const char* operation, int region, std::int64_t offset, const core::ConstTensorView& tensor) const {
  core::require(tensor.contiguous() && tensor.device().kind == core::DeviceKind::kCpu, operation,
                "tensors must be contiguous and on the CPU");
  core::require(region >= 0 && region < regions(), operation, "there is no such region");
  core::require(offset >= 0 && offset % kAlignment == 0, operation, "transfers begin at multiples of 4096 bytes");
  core::require(offset <= bytes(region) && tensor.bytes() <= bytes(region) - offset, operation,
                "the transfer does not lie within the region");
  const std::int64_t end = offset + tensor.bytes();
  core::require(end % kAlignment == 0 || end == bytes(region), operation,
                "transfers end at multiples of 4096 bytes or at the region's end");
}

}  // namespace braise::offload
