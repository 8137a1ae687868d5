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

template <class T>
HWY_INLINE void add_as(float* sums, const T* terms, std::size_t count) {
  ch::map([](auto a, auto b) { return hwy::HWY_NAMESPACE::Add(a, b); }, count, sums, sums, terms);
}

void add_elements(float* sums, const void* terms, Dtype dtype, std::size_t count) {
  switch (dtype) {
    case Dtype::kFloat32:
      return add_as(sums, static_cast<const float*>(terms), count);
    case Dtype::kBfloat16:
      return add_as(sums, static_cast<const Bfloat16*>(terms), count);
    default:
      return add_as(sums, static_cast<const Float16*>(terms), count);
  }
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(add_elements);

}  // namespace

void add_terms(float* sums, const float* terms, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(add_elements)(sums, terms, Dtype::kFloat32, static_cast<std::size_t>(count));
}

void add(const TensorView& sum, const ConstTensorView& x) {
  const std::array<Rows, 2> rows{Rows("add", "sum", sum), Rows("add", "x", x)};
  for_pieces_of_rows(rows, [&](const std::array<std::int64_t, 2>& offsets, std::int64_t, std::int64_t count) {
    HWY_DYNAMIC_DISPATCH(add_elements)
    (sum.data<float>() + offsets[0], element_address(x, offsets[1]), x.dtype(), static_cast<std::size_t>(count));
  });
}

}  // namespace braise::core::cpu
#endif
