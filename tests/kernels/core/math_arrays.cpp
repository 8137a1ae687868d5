// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/core/math_arrays.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/core/math.h"
#include "kernels/core/vector_math-inl.h"
#include "tests/kernels/core/math_arrays.h"

HWY_BEFORE_NAMESPACE();
namespace braise::test::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using core::HWY_NAMESPACE::Vector;

template <class Work>
void for_vectors(float* to, const float* from, std::size_t count, const Work& work) {
  const Vector::Tag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(work(hn::LoadU(d, from + i)), d, to + i);
  if (i < count) {
    const auto x = core::HWY_NAMESPACE::load_float_part(d, from + i, count - i);
    core::HWY_NAMESPACE::store_float_part(work(x), d, to + i, count - i);
  }
}

void apply(MathFunction function, float* to, const float* from, std::size_t count) {
  namespace math = core::HWY_NAMESPACE::math;
  using V = Vector::Float;
  switch (function) {
    case MathFunction::kExp:
      return for_vectors(to, from, count, [](V x) { return math::exp<Vector>(x); });
    case MathFunction::kLog:
      return for_vectors(to, from, count, [](V x) { return math::log<Vector>(x); });
    case MathFunction::kTanh:
      return for_vectors(to, from, count, [](V x) { return math::tanh<Vector>(x); });
    case MathFunction::kSigmoid:
      return for_vectors(to, from, count, [](V x) { return math::sigmoid<Vector>(x); });
    case MathFunction::kErf:
      return for_vectors(to, from, count, [](V x) { return math::erf<Vector>(x); });
    case MathFunction::kNormalCdf:
      return for_vectors(to, from, count, [](V x) {
        V gaussian;
        return math::normal_cdf<Vector>(x, gaussian);
      });
    case MathFunction::kGaussian:
      return for_vectors(to, from, count, [](V x) {
        V gaussian;
        math::normal_cdf<Vector>(x, gaussian);
        return gaussian;
      });
    case MathFunction::kSin:
    case MathFunction::kCos:
      return for_vectors(to, from, count, [function](V x) {
        V sin;
        V cos;
        math::sin_cos_turns<Vector>(x, sin, cos);
        return function == MathFunction::kSin ? sin : cos;
      });
  }
}

}  // namespace braise::test::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::test {
namespace {

HWY_EXPORT(apply);

float scalar(MathFunction function, float x) {
  namespace math = core::math;
  using A = math::Scalar;
  float first = 0;
  float second = 0;
  switch (function) {
    case MathFunction::kExp:
      return math::exp<A>(x);
    case MathFunction::kLog:
      return math::log<A>(x);
    case MathFunction::kTanh:
      return math::tanh<A>(x);
    case MathFunction::kSigmoid:
      return math::sigmoid<A>(x);
    case MathFunction::kErf:
      return math::erf<A>(x);
    case MathFunction::kNormalCdf:
      return math::normal_cdf<A>(x, first);
    case MathFunction::kGaussian:
      math::normal_cdf<A>(x, first);
      return first;
    case MathFunction::kSin:
      math::sin_cos_turns<A>(x, first, second);
      return first;
    case MathFunction::kCos:
      math::sin_cos_turns<A>(x, first, second);
      return second;
  }
  return x;
}

}  // namespace

void apply_vector(MathFunction function, float* to, const float* from, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(apply)(function, to, from, count);
}

void apply_scalar(MathFunction function, float* to, const float* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) to[i] = scalar(function, from[i]);
}

}  // namespace braise::test
#endif
