// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attention/attention.h"

namespace braise::attention::cpu {

/// All arguments of both passes; those of the backward pass are none in the forward pass.
struct Arguments {
  core::TensorView o_out;
  core::TensorView log_sum_out;
  core::TensorView dq;
  core::TensorView dk;
  core::TensorView dv;
  core::ConstTensorView d_o;
  core::ConstTensorView o;
  core::ConstTensorView log_sum;
  core::ConstTensorView q;
  core::ConstTensorView k;
  core::ConstTensorView v;
  float scale = 1;
  Mask mask;
  Dropout dropout;
};

void forward(core::Stream& stream, const Arguments& arguments);
void backward(core::Stream& stream, const Arguments& arguments);

}  // namespace braise::attention::cpu
