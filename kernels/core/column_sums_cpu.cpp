// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/column_sums_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/column_sums_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <algorithm>

#include "kernels/core/add_cpu.h"
#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;

template <class T>
HWY_INLINE void add_rows(float* sums, const T* x, std::int64_t stride, std::int64_t rows, std::size_t columns) {
  const auto add = [](auto a, auto b) { return hwy::HWY_NAMESPACE::Add(a, b); };
  ch::convert_float(sums, x, columns);
  for (std::int64_t row = 1; row < rows; ++row) ch::map(add, columns, sums, sums, x + row * stride);
}

/// One block's sums.
void sum_block(float* sums, const ConstTensorView& x, std::int64_t block) {
  const std::int64_t begin = block * kColumnSumBlock;
  const std::int64_t rows = std::min(kColumnSumBlock, x.extent(0) - begin);
  const auto columns = static_cast<std::size_t>(x.extent(1));
  const std::int64_t offset = begin * x.stride(0);
  ch::with_type(x.dtype(), [&](auto element) {
    add_rows(sums, x.data<decltype(element)>() + offset, x.stride(0), rows, columns);
  });
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(sum_block);

}  // namespace

void add_tree_of_rows(const TensorView& sums, const TensorView& parts) {
  const std::int64_t blocks = parts.extent(0);
  const std::int64_t columns = parts.extent(1);
  if (blocks == 0) return;
  constexpr std::int64_t kStrip = 512;
  float* const rows = parts.data<float>();
  parallel_for((columns + kStrip - 1) / kStrip, [&](std::int64_t strip) {
    const std::int64_t begin = strip * kStrip;
    const std::int64_t count = std::min(kStrip, columns - begin);
    for (std::int64_t step = 1; step < blocks; step *= 2) {
      for (std::int64_t block = 0; block + step < blocks; block += 2 * step) {
        add_terms(rows + block * columns + begin, rows + (block + step) * columns + begin, count);
      }
    }
    add_terms(sums.data<float>() + begin, rows + begin, count);
  });
}

void add_column_sums(Stream& stream, const TensorView& sums, const ConstTensorView& x) {
  const std::int64_t blocks = (x.extent(0) + kColumnSumBlock - 1) / kColumnSumBlock;
  if (blocks == 0 || x.extent(1) == 0) return;
  const Tensor parts =
      stream.arena().tensor(Dtype::kFloat32, Shape{blocks, x.extent(1)}, Category::kWorkspace, "add_column_sums");
  parallel_for(blocks, [&](std::int64_t block) {
    HWY_DYNAMIC_DISPATCH(sum_block)(parts.view.data<float>() + block * x.extent(1), x, block);
  });
  add_tree_of_rows(sums, parts.view);
}

}  // namespace braise::core::cpu
#endif
