// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/soft_cap_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/soft_cap_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include "kernels/core/rows.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;

void cap_elements(float* x, std::size_t count, float inner, float outer) {
  using V = ch::Vector;
  const auto capped = [&](V::Float value) {
    return V::mul(ch::math::tanh<V>(V::mul(value, V::constant(inner))), V::constant(outer));
  };
  ch::map(capped, count, x, x);
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(cap_elements);

}  // namespace

void soft_cap_row(float* x, std::int64_t count, float inner, float outer) {
  HWY_DYNAMIC_DISPATCH(cap_elements)(x, static_cast<std::size_t>(count), inner, outer);
}

void soft_cap(const TensorView& x, float cap) {
  for_pieces_of_rows<1>({Rows("soft_cap", "x", x)},
                        [&](const std::array<std::int64_t, 1>& offsets, std::int64_t, std::int64_t count) {
                          soft_cap_row(x.data<float>() + offsets[0], count, 1 / cap, cap);
                        });
}

}  // namespace braise::core::cpu
#endif
