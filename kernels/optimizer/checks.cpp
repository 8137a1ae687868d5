// SPDX-License-Identifier: Apache-2.0
#include "kernels/optimizer/checks.h"

#include <string>

#include "kernels/core/error.h"

namespace braise::optimizer {
namespace {

void check_contiguous(const char* operation, const char* argument, const core::ConstTensorView& tensor) {
  if (tensor.contiguous()) return;
  throw core::Error(std::string(operation) + ": " + argument + " is " + tensor.text() + ", not contiguous");
}

}  // namespace

void check_slice(const char* operation, const Slice& slice) {
  const core::Shape& shape = slice.master.shape();
  core::require_tensor(operation, "master", slice.master, core::Dtype::kFloat32, shape);
  check_contiguous(operation, "master", slice.master);
  core::require_float_tensor(operation, "gradient", slice.gradient, shape);
  check_contiguous(operation, "gradient", slice.gradient);
  if (!slice.copy) return;
  core::require_float_tensor(operation, "copy", slice.copy, shape);
  check_contiguous(operation, "copy", slice.copy);
}

void check_state(const char* operation, const char* argument, const core::TensorView& state, const Slice& slice,
                 bool needed) {
  if (!needed) {
    if (!state) return;
    throw core::Error(std::string(operation) + ": " + argument + " is " + state.text() +
                      ", where the options ask for none");
  }
  core::require_tensor(operation, argument, state, core::Dtype::kFloat32, slice.master.shape());
  check_contiguous(operation, argument, state);
}

void check_step(const char* operation, std::int64_t step) {
  if (step >= 1) return;
  throw core::Error(std::string(operation) + ": step is " + std::to_string(step) + ", not 1 or more");
}

}  // namespace braise::optimizer
