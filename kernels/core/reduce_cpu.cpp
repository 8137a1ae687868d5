// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/reduce_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>

#include "kernels/core/parallel.h"
#include "kernels/core/reduce.h"
#include "kernels/core/reduce_cpu.h"
#include "kernels/core/vector_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vf = core::HWY_NAMESPACE;

/// Partial sums of a block.
constexpr std::size_t kPartials = 8;

/// The sums of `kBlocks` blocks of `count` elements each, one after another.
template <std::int64_t kBlocks, class T>
void sum_blocks(double* sums, const T* x, std::size_t count) {
  const hn::CappedTag<double, kPartials> d;
  const hn::Rebind<float, decltype(d)> narrow;
  constexpr std::size_t kLanes = hn::MaxLanes(d);
  constexpr std::size_t kVectors = kPartials / kLanes;
  hn::Vec<decltype(d)> partials[kBlocks][kVectors];
  for (auto& block : partials) {
    for (auto& vector : block) vector = hn::Zero(d);
  }
  const auto add = [&](std::size_t block, const T* eight) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto value = hn::PromoteTo(d, vf::load_float(narrow, eight + v * kLanes));
      partials[block][v] = hn::MulAdd(value, value, partials[block][v]);
    }
  };
  std::size_t i = 0;
  for (; i + kPartials <= count; i += kPartials) {
    for (std::int64_t block = 0; block < kBlocks; ++block) add(block, x + block * count + i);
  }
  if (i < count) {  // zeros change no sum of squares
    for (std::int64_t block = 0; block < kBlocks; ++block) {
      T rest[kPartials] = {};
      std::copy(x + block * count + i, x + block * count + count, rest);
      add(block, rest);
    }
  }
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    HWY_ALIGN double lanes[kPartials];
    for (std::size_t v = 0; v < kVectors; ++v) hn::Store(partials[block][v], d, lanes + v * kLanes);
    sums[block] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  }
}

/// Blocks [first, first + kBlocksTogether) of `x`, as far as there are so many.
template <class T>
void sum_group(std::span<double> sums, const T* x, std::int64_t elements, std::int64_t first) {
  constexpr auto kBlock = static_cast<std::size_t>(kReductionBlock);
  const auto blocks = static_cast<std::int64_t>(sums.size());
  x += first * kReductionBlock;
  double* const out = sums.data() + first;
  if ((first + kBlocksTogether) * kReductionBlock <= elements) {
    return sum_blocks<kBlocksTogether>(out, x, kBlock);
  }
  for (std::int64_t b = 0; first + b < blocks; ++b) {
    const std::int64_t left = elements - (first + b) * kReductionBlock;
    sum_blocks<1>(out + b, x + b * kReductionBlock, static_cast<std::size_t>(std::min(left, kReductionBlock)));
  }
}

void sum_squares(std::span<double> sums, const ConstTensorView& x, std::int64_t first) {
  switch (x.dtype()) {
    case Dtype::kBfloat16:
      return sum_group(sums, x.data<Bfloat16>(), x.elements(), first);
    case Dtype::kFloat16:
      return sum_group(sums, x.data<Float16>(), x.elements(), first);
    default:
      return sum_group(sums, x.data<float>(), x.elements(), first);
  }
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(sum_squares);

}  // namespace

void block_sums_of_squares(std::span<double> sums, const ConstTensorView& x) {
  const std::int64_t groups = (static_cast<std::int64_t>(sums.size()) + kBlocksTogether - 1) / kBlocksTogether;
  parallel_for(groups, [&](std::int64_t group) {
    HWY_DYNAMIC_DISPATCH(sum_squares)(sums, x, group * kBlocksTogether);
  });
}

}  // namespace braise::core::cpu
#endif
