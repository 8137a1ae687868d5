// SPDX-License-Identifier: Apache-2.0
#include "kernels/sampling/sampling.h"

#include <cmath>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/sampling/sampling_cpu.h"

namespace braise::sampling {

void sample(core::Stream& stream, const core::TensorView& ids, const core::ConstTensorView& logits,
            std::span<const Choice> rows) {
  constexpr const char* kName = "sample";
  core::require(logits && logits.rank() == 2 && logits.dtype() == core::Dtype::kFloat32, kName,
                "logits must be fp32 [B, V]");
  core::require(logits.rows_contiguous(), kName, "the rows of logits are not contiguous");
  core::require(logits.extent(1) > 0 && logits.extent(1) <= std::numeric_limits<std::int32_t>::max(), kName,
                "the vocabulary must have 1 to 2^31 - 1 tokens");
  core::require_tensor(kName, "ids", ids, core::Dtype::kInt32, core::Shape{logits.extent(0)});
  core::require(ids.contiguous(), kName, "ids is not contiguous");
  core::require(static_cast<std::int64_t>(rows.size()) == logits.extent(0), kName, "there must be one choice a row");
  for (const Choice& row : rows) {
    core::require(std::isfinite(row.temperature) && row.temperature >= 0, kName,
                  "the temperature must be finite and not negative");
    core::require(row.top_k >= 0, kName, "top_k must not be negative");
    core::require(row.top_p > 0 && row.top_p <= 1, kName, "top_p must be above 0 and at most 1");
  }
  core::require_cpu(stream, kName);
  cpu::sample(stream, ids, logits, rows);
}

}  // namespace braise::sampling
