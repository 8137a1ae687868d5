// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/parallel.h"
#include "kernels/optimizer/slice.h"

namespace braise::optimizer::cpu {

/// Elements of a slice that one call of a kernel updates.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Calls `work(range)` for the ranges that make up a slice, shared among threads.
template <class Work>
void for_ranges(const Slice& slice, const Work& work) {
  constexpr std::int64_t kPiece = 16384;
  const std::int64_t elements = slice.master.elements();
  core::parallel_for((elements + kPiece - 1) / kPiece, [&](std::int64_t piece) {
    work(Range{piece * kPiece, std::min((piece + 1) * kPiece, elements)});
  });
}

}  // namespace braise::optimizer::cpu
