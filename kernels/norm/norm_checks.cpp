// SPDX-License-Identifier: Apache-2.0
#include "kernels/norm/norm_checks.h"

#include <string>

#include "kernels/core/error.h"

namespace braise::norm {
namespace {

void require_contiguous(const char* operation, const char* argument, const core::ConstTensorView& tensor) {
  if (tensor.contiguous()) return;
  throw core::Error(std::string(operation) + ": " + argument + " is " + tensor.text() + ", not contiguous");
}

}  // namespace

core::Shape statistics_shape(const char* operation, const core::ConstTensorView& x) {
  core::require(x && x.rank() > 0 && x.extent(-1) > 0, operation, "x has no channels");
  return core::Shape(x.shape().extents().first(static_cast<std::size_t>(x.rank() - 1)));
}

void require_fp32(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                  const core::Shape& shape) {
  core::require_tensor(operation, argument, tensor, core::Dtype::kFloat32, shape);
  require_contiguous(operation, argument, tensor);
}

void require_optional(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                      const core::Shape& shape) {
  if (tensor) require_fp32(operation, argument, tensor, shape);
}

void require_channels(const char* operation, const char* argument, const core::ConstTensorView& tensor,
                      const core::ConstTensorView& x) {
  core::require_float_tensor(operation, argument, tensor, {x.extent(-1)});
  require_contiguous(operation, argument, tensor);
}

}  // namespace braise::norm
