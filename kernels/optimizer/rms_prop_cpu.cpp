// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer/rms_prop_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/optimizer/rms_prop_cpu.h"
#include "kernels/optimizer/slice_cpu-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::optimizer::cpu::HWY_NAMESPACE {

/// The states in order: v, then a if kCentered, then m if kMomentum.
template <bool kCentered, bool kMomentum>
void update(const Slice& slice, const std::array<float*, 1 + kCentered + kMomentum>& states,
            const RmsPropConstants& constants, Range range) {
  const Tag d;
  const Vector rate = hn::Set(d, constants.negative_rate);
  const Vector kept = hn::Set(d, constants.kept);
  const Vector taken = hn::Set(d, constants.taken);
  const Vector epsilon = hn::Set(d, constants.epsilon);
  const Vector weight_decay = hn::Set(d, constants.weight_decay);
  const Vector momentum = hn::Set(d, constants.momentum);
  const bool decays = constants.weight_decay != 0.0f;
  update_range<1 + kCentered + kMomentum>(slice, states, range, [&](Vector g, Vector& w, auto& state) {
    if (decays) g = fma(weight_decay, w, g);
    Vector& v = state[0];
    v = fma(hn::Mul(taken, g), g, hn::Mul(kept, v));
    Vector square = v;
    if constexpr (kCentered) {
      Vector& a = state[1];
      a = fma(taken, hn::Sub(g, a), a);
      square = fma(hn::Neg(a), a, v);
      square = hn::IfThenElse(hn::Lt(square, hn::Zero(d)), hn::Zero(d), square);  // NaN stays
    }
    Vector step = hn::Div(g, hn::Add(hn::Sqrt(square), epsilon));
    if constexpr (kMomentum) {
      Vector& m = state[1 + kCentered];
      m = fma(momentum, m, step);
      step = m;
    }
    w = fma(rate, step, w);
  });
}

void rms_prop_range(const Slice& slice, const core::TensorView& v, const core::TensorView& a, const core::TensorView& m,
                    const RmsPropConstants& constants, Range range) {
  auto* const squares = v.data<float>();
  if (a && m) return update<true, true>(slice, {squares, a.data<float>(), m.data<float>()}, constants, range);
  if (a) return update<true, false>(slice, {squares, a.data<float>()}, constants, range);
  if (m) return update<false, true>(slice, {squares, m.data<float>()}, constants, range);
  update<false, false>(slice, {squares}, constants, range);
}

}  // namespace braise::optimizer::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::optimizer::cpu {
namespace {

HWY_EXPORT(rms_prop_range);

}  // namespace

void rms_prop_step(const Slice& slice, const core::TensorView& v, const core::TensorView& a, const core::TensorView& m,
                   const RmsPropConstants& constants) {
  for_ranges(slice, [&](Range range) { HWY_DYNAMIC_DISPATCH(rms_prop_range)(slice, v, a, m, constants, range); });
}

}  // namespace braise::optimizer::cpu
#endif
