// SPDX-License-Identifier: Apache-2.0
// Loops over arrays of storage dtypes, one fp32 vector at a time. Included once for each target, in Highway's way.
#if defined(BRAISE_KERNELS_CORE_VECTOR_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BRAISE_KERNELS_CORE_VECTOR_MAP_INL_H_
#undef BRAISE_KERNELS_CORE_VECTOR_MAP_INL_H_
#else
#define BRAISE_KERNELS_CORE_VECTOR_MAP_INL_H_
#endif

#include <hwy/highway.h>

#include <array>
#include <cstddef>

#include "kernels/core/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Calls `work` with a value of the C++ type of a floating-point dtype.
template <class Work>
HWY_INLINE void with_type(Dtype dtype, const Work& work) {
  switch (dtype) {
    case Dtype::kBfloat16:
      return work(Bfloat16());
    case Dtype::kFloat16:
      return work(Float16());
    default:
      return work(float());
  }
}

/// Partial sums of fp32: element i goes to sum i mod 16, in order, whatever the vector's width.
using PartialSums = std::array<float, 16>;

/// Their sum, added by halves.
HWY_INLINE float sum_by_halves(PartialSums& sums) {
#if HWY_TARGET <= HWY_AVX3
  // Written out, as the loops below go through memory at every step.
  const __m512 all = _mm512_loadu_ps(sums.data());
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#endif
  for (std::size_t step = sums.size() / 2; step > 0; step /= 2) {
    for (std::size_t i = 0; i < step; ++i) sums[i] += sums[i + step];
  }
  return sums[0];
}

/// The same in registers: a block of 16 elements, `offset` (a multiple of the vector's lanes) in it, is added lane by
/// lane.
class RunningSums {
 public:
  using D = hn::ScalableTag<float>;
  RunningSums() {
    for (auto& part : parts_) part = hn::Zero(D());
  }
  HWY_INLINE void add(std::size_t offset, hn::Vec<D> values) {
    auto& part = parts_[offset / hn::MaxLanes(D())];
    part = hn::Add(part, values);
  }
  HWY_INLINE float total() const {
    HWY_ALIGN PartialSums sums;
    for (std::size_t i = 0; i < kParts; ++i) hn::Store(parts_[i], D(), sums.data() + i * hn::MaxLanes(D()));
    return sum_by_halves(sums);
  }

 private:
  static constexpr std::size_t kParts = std::tuple_size_v<PartialSums> / hn::MaxLanes(D());
  hn::Vec<D> parts_[kParts];
};

/// to[i] = function(from[i]...) for i in [0, count), in fp32. `to` may be one of `from`.
template <class Function, class To, class... From>
HWY_INLINE void map(const Function& function, std::size_t count, To* to, const From*... from) {
  const Vector::Tag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) store_float(function(load_float(d, from + i)...), d, to + i);
  if (i < count) {
    store_float_part(function(load_float_part(d, from + i, count - i)...), d, to + i, count - i);
  }
}

/// first[i], second[i] = the results of function(from[i]...) for i in [0, count): function returns the first of two
/// and writes the second to its first argument.
template <class Function, class To, class... From>
HWY_INLINE void map_to_two(const Function& function, std::size_t count, To* first, To* second, const From*... from) {
  const Vector::Tag d;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  Vector::Float other;
  for (; i + lanes <= count; i += lanes) {
    const auto one = function(other, load_float(d, from + i)...);
    store_float(one, d, first + i);
    store_float(other, d, second + i);
  }
  if (i < count) {
    const auto one = function(other, load_float_part(d, from + i, count - i)...);
    store_float_part(one, d, first + i, count - i);
    store_float_part(other, d, second + i, count - i);
  }
}

}  // namespace braise::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard, once for each target
