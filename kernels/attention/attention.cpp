// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention.h"

#include <cmath>
#include <string>

#include "kernels/attention/attention_cpu.h"
#include "kernels/core/error.h"

namespace braise::attention {
namespace {

using core::ConstTensorView;
using core::Dtype;
using core::Shape;

void require_heads(const char* operation, const char* argument, const ConstTensorView& tensor, Dtype dtype,
                   const Shape& shape) {
  core::require_tensor(operation, argument, tensor, dtype, shape);
  if (!tensor.rows_contiguous())
    throw core::Error(std::string(operation) + ": the rows of " + argument + " are not contiguous");
}

void check(const char* operation, const cpu::Arguments& arguments) {
  const ConstTensorView& q = arguments.q;
  const ConstTensorView& k = arguments.k;
  core::require(q && k && q.rank() == 4 && k.rank() == 4 && core::is_float(q.dtype()), operation,
                "q must be [B, T, H, D] and k [B, T, G, D], of a floating-point dtype");
  const std::int64_t batch = q.extent(0);
  const std::int64_t positions = k.extent(1);
  require_heads(operation, "q", q, q.dtype(), q.shape());
  require_heads(operation, "k", k, q.dtype(), Shape{batch, positions, k.extent(2), q.extent(3)});
  require_heads(operation, "v", arguments.v, q.dtype(), k.shape());
  core::require(q.extent(1) <= positions, operation, "there are more queries than keys");
  core::require(k.extent(2) > 0 && q.extent(2) % k.extent(2) == 0, operation,
                "the heads of q must be a multiple of those of k");
  core::require(q.extent(3) > 0 && q.extent(3) <= 256, operation, "the size of a head must be from 1 to 256");
  core::require(arguments.scale > 0 && std::isfinite(arguments.scale), operation, "scale must be positive and finite");
  core::require(arguments.mask.window > 0, operation, "the window must be positive");
  core::require(arguments.mask.score_cap >= 0 && std::isfinite(arguments.mask.score_cap), operation,
                "the cap of scores must be finite and not negative");
  if (arguments.mask.document_starts) {
    core::require_tensor(operation, "document_starts", arguments.mask.document_starts, Dtype::kInt32,
                         Shape{batch, positions});
    core::require(arguments.mask.document_starts.rows_contiguous(), operation,
                  "the rows of document_starts are not contiguous");
  }
  const Dropout& dropout = arguments.dropout;
  core::require(dropout.rate >= 0 && dropout.rate < 1, operation, "the dropout rate must be in [0, 1)");
  core::require(dropout.rate == 0 || static_cast<std::int64_t>(dropout.streams.size()) == batch, operation,
                "dropout needs one random stream for each sequence");
}

}  // namespace

void attention_forward(core::Stream& stream, const core::TensorView& o, const core::TensorView& log_sum,
                       const ConstTensorView& q, const ConstTensorView& k, const ConstTensorView& v, float scale,
                       const Mask& mask, const Dropout& dropout) {
  constexpr const char* kName = "attention_forward";
  cpu::Arguments arguments;
  arguments.o_out = o;
  arguments.log_sum_out = log_sum;
  arguments.q = q;
  arguments.k = k;
  arguments.v = v;
  arguments.scale = scale;
  arguments.mask = mask;
  arguments.dropout = dropout;
  check(kName, arguments);
  require_heads(kName, "o", o, q.dtype(), q.shape());
  if (log_sum) {
    core::require_tensor(kName, "log_sum", log_sum, Dtype::kFloat32, Shape{q.extent(0), q.extent(2), q.extent(1)});
    core::require(log_sum.contiguous(), kName, "log_sum is not contiguous");
  }
  core::require_cpu(stream, kName);
  cpu::forward(stream, arguments);
}

void attention_backward(core::Stream& stream, const core::TensorView& dq, const core::TensorView& dk,
                        const core::TensorView& dv, const ConstTensorView& d_o, const ConstTensorView& o,
                        const ConstTensorView& log_sum, const ConstTensorView& q, const ConstTensorView& k,
                        const ConstTensorView& v, float scale, const Mask& mask, const Dropout& dropout) {
  constexpr const char* kName = "attention_backward";
  cpu::Arguments arguments;
  arguments.dq = dq;
  arguments.dk = dk;
  arguments.dv = dv;
  arguments.d_o = d_o;
  arguments.o = o;
  arguments.log_sum = log_sum;
  arguments.q = q;
  arguments.k = k;
  arguments.v = v;
  arguments.scale = scale;
  arguments.mask = mask;
  arguments.dropout = dropout;
  check(kName, arguments);
  core::require(q.extent(1) == k.extent(1), kName, "there must be as many queries as keys");
  require_heads(kName, "d_o", d_o, q.dtype(), q.shape());
  require_heads(kName, "o", o, q.dtype(), q.shape());
  require_heads(kName, "dq", dq, q.dtype(), q.shape());
  require_heads(kName, "dk", dk, q.dtype(), k.shape());
  require_heads(kName, "dv", dv, q.dtype(), k.shape());
  core::require_tensor(kName, "log_sum", log_sum, Dtype::kFloat32, Shape{q.extent(0), q.extent(2), q.extent(1)});
  core::require(log_sum.contiguous(), kName, "log_sum is not contiguous");
  core::require_cpu(stream, kName);
  cpu::backward(stream, arguments);
}

}  // namespace braise::attention
