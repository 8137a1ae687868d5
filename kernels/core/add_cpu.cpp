// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/add_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/add_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include "kernels/core/rows.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;

void add_elements(void* sums, Dtype sum_dtype, const void* terms, Dtype dtype, std::size_t count) {
  ch::with_type(sum_dtype, [&](auto sum) {
    ch::with_type(dtype, [&](auto element) {
      const auto plus = [](auto a, auto b) { return hwy::HWY_NAMESPACE::Add(a, b); };
      auto* const to = static_cast<decltype(sum)*>(sums);
      ch::map(plus, count, to, to, static_cast<const decltype(element)*>(terms));
    });
  });
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(add_elements);

}  // namespace

void add_terms(float* sums, const float* terms, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(add_elements)(sums, Dtype::kFloat32, terms, Dtype::kFloat32, static_cast<std::size_t>(count));
}

void add(const TensorView& sum, const ConstTensorView& x) {
  const std::array<Rows, 2> rows{Rows("add", "sum", sum), Rows("add", "x", x)};
  for_pieces_of_rows(rows, [&](const std::array<std::int64_t, 2>& offsets, std::int64_t, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(add_elements)
    (element_address(sum, offsets[0]), sum.dtype(), element_address(x, offsets[1]), x.dtype(),
     static_cast<std::size_t>(count));
  });
}

}  // namespace braise::core::cpu
#endif
