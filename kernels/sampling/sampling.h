// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::sampling {

/// How the token of one row is chosen, and by which random number.
struct Choice {
  float temperature = 1;      ///< finite, >= 0; 0: the most likely token
  std::int64_t top_k = 0;     ///< only so many of the most likely tokens; 0: all
  double top_p = 1;           ///< in (0, 1]: only the most likely tokens, until their probabilities sum to it
  std::uint64_t seed = 0;     ///< of the random number, with the two below
  std::uint64_t request = 0;  ///< what the token is for
  std::uint64_t token = 0;    ///< which token of it
};

/// Chooses the next token of each row of logits. Tokens are ranked by their logits, the greatest first, equal ones by
/// their ids, the lowest first. At temperature 0 the first is chosen; otherwise these apply in turn, as in Hugging Face
/// transformers and vLLM (which keep all that equal the k-th where this keeps k):
///
///     w[v] = exp((z[v] - max z) / temperature)
///     top-k: w = 0 but for the first k tokens
///     top-p: w = 0 but for the fewest first tokens whose sum of w is >= top_p times that of all
///     the token is the first, by id, with w[0] + ... + w[token] > u times the sum of all w
///
/// logits: fp32 [B, V], rows contiguous; -inf: a token that never comes. ids: int32 [B], contiguous. rows: one for each
/// row. w is fp32; its sums are fp64, over ranks in order, over ids in order within blocks of 256, whose sums are added
/// in order. u is a multiple of 2^-53 in [0, 1): words 4 token and 4 token + 1 of core::RandomStream(seed, kSampling,
/// request). Deterministic: a row's token depends on its logits and its choice alone; the same on every tier. Errors:
/// core::Error for shapes or settings out of range, and, naming row and token, for a logit that is NaN or +inf and for
/// a row of -inf; ids is then undefined.
/// Source: top-k: Fan et al. 2018, section 5.4; top-p: Holtzman et al. 2020 (arXiv 1904.09751), section 3.1.
void sample(core::Stream& stream, const core::TensorView& ids, const core::ConstTensorView& logits,
            std::span<const Choice> rows);

}  // namespace braise::sampling
