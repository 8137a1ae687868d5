// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer/sgd_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/optimizer/sgd_cpu.h"
#include "kernels/optimizer/slice_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::optimizer::cpu::HWY_NAMESPACE {

void sgd_range(const Slice& slice, const core::TensorView& m, const SgdConstants& constants, Range range) {
  const Tag d;
  const Vector rate = hn::Set(d, constants.negative_rate);
  const Vector weight_decay = hn::Set(d, constants.weight_decay);
  const Vector momentum = hn::Set(d, constants.momentum);
  const Vector undamped = hn::Set(d, constants.undamped);
  const bool decays = constants.weight_decay != 0.0f;
  if (!m) {
    update_range<0>(slice, {}, range, [&](Vector g, Vector& w, auto&) {
      if (decays) g = fma(weight_decay, w, g);
      w = fma(rate, g, w);
    });
    return;
  }
  update_range<1>(slice, {m.data<float>()}, range, [&](Vector g, Vector& w, auto& state) {
    if (decays) g = fma(weight_decay, w, g);
    state[0] = constants.first ? g : fma(momentum, state[0], hn::Mul(undamped, g));
    w = fma(rate, constants.nesterov ? fma(momentum, state[0], g) : state[0], w);
  });
}

}  // namespace braise::optimizer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::optimizer::cpu {
namespace {

HWY_EXPORT(sgd_range);

}  // namespace

void sgd_step(const Slice& slice, const core::TensorView& m, const SgdConstants& constants) {
  for_ranges(slice, [&](Range range) { HWY_DYNAMIC_DISPATCH(sgd_range)(slice, m, constants, range); });
}

}  // namespace braise::optimizer::cpu
#endif
