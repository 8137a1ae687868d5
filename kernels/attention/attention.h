// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "kernels/core/device.h"
#include "kernels/core/random.h"
#include "kernels/core/tensor.h"

namespace braise::attention {

/// Which keys a query may see, and how scores become weights.
struct Mask {
  /// A query at position p sees keys at positions p - window + 1 to p.
  std::int64_t window = std::numeric_limits<std::int64_t>::max();

  /// Documents packed in one sequence see only themselves: int32 [B, T] with, for each position, the position at which
  /// its document begins (never decreasing along T, never after the position itself). None: one document.
  core::ConstTensorView document_starts;

  /// Scores are bent so that none is beyond it: cap tanh(scale q k / cap) in place of scale q k. 0: they are not.
  float score_cap = 0;
};

/// Dropout of attention weights, as activation::dropout does it.
struct Dropout {
  double rate = 0;  ///< in [0, 1)
  /// One stream for each sequence of the batch; element ((h * T) + query) * T + key decides on that weight.
  std::span<const core::RandomStream> streams;
  /// Number of the first query head: h above counts from it, so that some of a layer's heads drop what all would.
  std::int64_t first_head = 0;
};

/// Causal attention, grouped-query where there are fewer key heads than query heads (H a multiple of G; query head h
/// uses key head h / (H / G)).
///
///     o[b,t,h] = sum over visible s of softmax_s(scale q[b,t,h] . k[b,s,g]) v[b,s,g]
///
/// q: [B, Tq, H, D], D at most 256; k and v: [B, T, G, D], Tq <= T: the queries are the last Tq positions. o: as q. Any
/// strides but the last dimension's, which is contiguous; one floating-point dtype for all. log_sum: fp32 [B, H, Tq],
/// contiguous: the logarithm of the softmax's denominator, for the backward pass; may be none. scale > 0. Scores,
/// weights' sums and the output are accumulated in fp32; products are multiplied as linear::matmul does (bf16 weights
/// where it multiplies bf16). Memory is linear in T: keys go by in tiles of 256, with a running maximum. Deterministic;
/// a query's bits depend on its own position and the keys before it, not on the number of threads or of queries beside
/// it. Keys and values a query does not see must be finite. Errors: core::Error for shapes, dtypes, a scale or a rate
/// that do not go together. Source: Dao, "FlashAttention-2", 2023 (arXiv 2307.08691), algorithm 1; Rabe and Staats 2021
/// (arXiv 2112.05682).
void attention_forward(core::Stream& stream, const core::TensorView& o, const core::TensorView& log_sum,
                       const core::ConstTensorView& q, const core::ConstTensorView& k, const core::ConstTensorView& v,
                       float scale, const Mask& mask = {}, const Dropout& dropout = {});

/// The gradients of q, k and v, overwritten; with w the weights, recomputed from log_sum:
///
///     dv = w' do;   dw = do v';   ds = w (dw - sum over d of do o);   dq = scale ds k;   dk = scale ds' q
///
/// and, with a score cap, ds further times 1 - (score / cap)^2. Shapes, dtypes, mask, dropout and scale as in the forward pass, with Tq = T; o and log_sum are its results. dk and
/// dv are sums over the query heads of a group, in order of the heads, then of the queries. Workspace linear in T.
/// Deterministic: equal bits for any number of threads. Errors: as the forward pass.
/// Source: Dao, "FlashAttention-2", algorithm 2.
void attention_backward(core::Stream& stream, const core::TensorView& dq, const core::TensorView& dk,
                        const core::TensorView& dv, const core::ConstTensorView& d_o, const core::ConstTensorView& o,
                        const core::ConstTensorView& log_sum, const core::ConstTensorView& q,
                        const core::ConstTensorView& k, const core::ConstTensorView& v, float scale,
                        const Mask& mask = {}, const Dropout& dropout = {});

}  // namespace braise::attention
