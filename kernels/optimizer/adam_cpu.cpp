// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer/adam_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/optimizer/adam_cpu.h"
#include "kernels/optimizer/slice_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::optimizer::cpu::HWY_NAMESPACE {

void adam_range(const Slice& slice, const core::TensorView& m, const core::TensorView& v,
                const AdamConstants& constants, Range range) {
  const Tag d;
  const Vector rate = hn::Set(d, constants.negative_rate);
  const Vector taken1 = hn::Set(d, constants.taken1);
  const Vector kept2 = hn::Set(d, constants.kept2);
  const Vector taken2 = hn::Set(d, constants.taken2);
  const Vector correction2 = hn::Set(d, constants.correction2);
  const Vector epsilon = hn::Set(d, constants.epsilon);
  const Vector weight_decay = hn::Set(d, constants.weight_decay);
  const Vector shrinkage = hn::Set(d, constants.shrinkage);
  const bool decays = constants.weight_decay != 0.0f;
  update_range<2>(slice, {m.data<float>(), v.data<float>()}, range, [&](Vector g, Vector& w, auto& state) {
    if (decays) g = fma(weight_decay, w, g);
    w = hn::Mul(shrinkage, w);  // by 1 unless decoupled, which changes no weight
    state[0] = fma(taken1, hn::Sub(g, state[0]), state[0]);
    state[1] = fma(hn::Mul(taken2, g), g, hn::Mul(kept2, state[1]));
    const Vector divisor = fma(hn::Sqrt(state[1]), correction2, epsilon);
    w = fma(rate, hn::Div(state[0], divisor), w);
  });
}

}  // namespace braise::optimizer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::optimizer::cpu {
namespace {

HWY_EXPORT(adam_range);

}  // namespace

void adam_step(const Slice& slice, const core::TensorView& m, const core::TensorView& v,
               const AdamConstants& constants) {
  for_ranges(slice, [&](Range range) { HWY_DYNAMIC_DISPATCH(adam_range)(slice, m, v, constants, range); });
}

}  // namespace braise::optimizer::cpu
#endif
