// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/reduce.h"

#include <bit>

#include "kernels/core/error.h"
#include "kernels/core/reduce_cpu.h"

namespace braise::core {

void block_sums_of_squares(Stream& stream, std::span<double> sums, const ConstTensorView& x) {
  constexpr const char* kName = "block_sums_of_squares";
  if (!x || !is_float(x.dtype()) || !x.contiguous()) {
    throw Error(std::string(kName) + ": x is " + x.text() + ", not a contiguous tensor of fp32, bf16 or fp16");
  }
  const std::int64_t blocks = reduction_blocks(x.elements());
  if (static_cast<std::int64_t>(sums.size()) != blocks) {
    throw Error(std::string(kName) + ": sums has " + std::to_string(sums.size()) + " values, not " +
                std::to_string(blocks) + ", the blocks of " + x.text());
  }
  require_cpu(stream, kName);
  cpu::block_sums_of_squares(sums, x);
}

double tree_sum(std::span<const double> terms) {
  if (terms.empty()) return 0.0;
  if (terms.size() == 1) return terms[0];
  const std::size_t left = std::bit_floor(terms.size() - 1);
  return tree_sum(terms.first(left)) + tree_sum(terms.subspan(left));
}

}  // namespace braise::core
