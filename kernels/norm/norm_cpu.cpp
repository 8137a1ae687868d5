// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm/norm_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/core/arena.h"
#include "kernels/core/column_sums_cpu.h"
#include "kernels/core/copy.h"
#include "kernels/core/parallel.h"
#include "kernels/core/rows.h"
#include "kernels/core/vector_map-inl.h"
#include "kernels/norm/norm_cpu.h"

#ifndef BRAISE_KERNELS_NORM_NORM_CPU_CPP_
#define BRAISE_KERNELS_NORM_NORM_CPU_CPP_
namespace braise::norm::cpu {

using core::cpu::kColumnSumBlock;

struct ForwardRows {
  core::TensorView y;
  core::ConstTensorView x;
  core::Rows y_rows;
  core::Rows x_rows;
  bool centered;
  float* mean;         // or null
  float* inverse_std;  // or null
  const float* scale;
  const float* bias;  // or null
  double epsilon;
};

struct BackwardRows {
  core::TensorView dx;
  core::ConstTensorView dy;
  core::ConstTensorView x;
  core::Rows dx_rows;
  core::Rows dy_rows;
  core::Rows x_rows;
  bool centered;
  bool add;
  const float* mean;  // null unless centered
  const float* inverse_std;
  const float* scale;
  float* dweight;  // one row for each block, or null
  float* dbias;    // likewise
};

}  // namespace braise::norm::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::norm::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vm = core::HWY_NAMESPACE;
using A = vm::Vector;
using V = A::Float;
using Wide = hn::Repartition<double, A::Tag>;

/// Sums are over 16 lanes, whatever the vector has, so that they do not depend on the tier.
constexpr std::size_t kLanes = 16;
constexpr std::size_t kVectors = kLanes / hn::MaxLanes(A::Tag());

/// 16 partial sums in fp64.
class LaneSum {
 public:
  HWY_INLINE LaneSum() {
    for (auto& lanes : lanes_) lanes = hn::Zero(Wide());
  }

  /// Adds to the sums of the k-th vector of 16 elements: a sum becomes `plus(sum, x)`, in fp64.
  template <class Plus>
  HWY_INLINE void add(std::size_t k, V x, const Plus& plus) {
    const hn::Half<A::Tag> half;
    lanes_[2 * k] = plus(lanes_[2 * k], hn::PromoteTo(Wide(), hn::LowerHalf(half, x)));
    lanes_[2 * k + 1] = plus(lanes_[2 * k + 1], hn::PromoteTo(Wide(), hn::UpperHalf(half, x)));
  }

  /// The same for the first `count` lanes of the vector.
  template <class Plus>
  HWY_INLINE void add_part(std::size_t k, V x, std::size_t count, const Plus& plus) {
    const hn::Half<A::Tag> half;
    const std::size_t lanes = hn::Lanes(Wide());
    const auto masked = [&](std::size_t first, auto& sum, auto part) {
      const auto wanted = hn::FirstN(Wide(), count > first ? count - first : 0);
      sum = hn::IfThenElse(wanted, plus(sum, hn::PromoteTo(Wide(), part)), sum);
    };
    masked(0, lanes_[2 * k], hn::LowerHalf(half, x));
    masked(lanes, lanes_[2 * k + 1], hn::UpperHalf(half, x));
  }

  HWY_INLINE double total() const {
    HWY_ALIGN double sums[kLanes];
    for (std::size_t i = 0; i < 2 * kVectors; ++i) hn::Store(lanes_[i], Wide(), sums + i * hn::Lanes(Wide()));
    for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
      for (std::size_t i = 0; i < width; ++i) sums[i] += sums[i + width];
    }
    return sums[0];
  }

 private:
  hn::Vec<Wide> lanes_[2 * kVectors];
};

/// Calls `whole(k, i)` for each vector of elements, k being its place among 16 lanes and i its first element, and
/// `part(k, i, count)` for an incomplete last one.
template <class Whole, class Part>
HWY_INLINE void for_lanes(std::size_t columns, const Whole& whole, const Part& part) {
  constexpr std::size_t kWidth = hn::MaxLanes(A::Tag());
  std::size_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    for (std::size_t k = 0; k < kVectors; ++k) whole(k, i + k * kWidth);
  }
  std::size_t k = 0;
  for (; i + kWidth <= columns; i += kWidth) whole(k++, i);
  if (i < columns) part(k, i, columns - i);
}

/// The sum over a row: `plus(sum, x)` for each element, in fp64.
template <class T, class Plus>
HWY_INLINE double row_sum(const T* x, std::size_t columns, const Plus& plus) {
  const A::Tag d;
  LaneSum sum;
  for_lanes(
      columns, [&](std::size_t k, std::size_t i) { sum.add(k, vm::load_float(d, x + i), plus); },
      [&](std::size_t k, std::size_t i, std::size_t count) {
        sum.add_part(k, vm::load_float_part(d, x + i, count), count, plus);
      });
  return sum.total();
}

template <bool kCentered, class Y, class X>
void forward_row(const ForwardRows& a, std::int64_t row) {
  const auto columns = static_cast<std::size_t>(a.x_rows.columns());
  const X* const x = a.x.data<X>() + a.x_rows.offset(row);
  Y* const y = a.y.data<Y>() + a.y_rows.offset(row);
  const auto count = static_cast<double>(columns);
  double mean = 0;
  double variance = 0;
  if constexpr (kCentered) {
    mean = row_sum(x, columns, [](auto sum, auto v) { return hn::Add(sum, v); }) / count;
    const auto center = hn::Set(Wide(), mean);
    // Not fused: the baseline could not do the same.
    const auto plus_square = [&](auto sum, auto v) {
      return hn::Add(sum, hn::Mul(hn::Sub(v, center), hn::Sub(v, center)));
    };
    variance = row_sum(x, columns, plus_square) / count;
  } else {
    // The square of an fp32 is exact in fp64, so that fused or not is the same.
    variance = row_sum(x, columns, [](auto sum, auto v) { return hn::MulAdd(v, v, sum); }) / count;
  }
  const auto inverse_std = static_cast<float>(1.0 / std::sqrt(variance + a.epsilon));
  if (a.inverse_std != nullptr) a.inverse_std[row] = inverse_std;
  if (a.mean != nullptr) a.mean[row] = static_cast<float>(mean);
  const auto center = A::constant(static_cast<float>(mean));
  const auto factor = A::constant(inverse_std);
  const auto normal = [&](V v) { return A::mul(kCentered ? A::sub(v, center) : v, factor); };
  if (a.bias != nullptr) {
    vm::map([&](V v, V scale, V bias) { return A::mul_add(normal(v), scale, bias); }, columns, y, x, a.scale, a.bias);
  } else {
    vm::map([&](V v, V scale) { return A::mul(normal(v), scale); }, columns, y, x, a.scale);
  }
}

template <bool kCentered, class X, class G>
void backward_row(const BackwardRows& a, std::int64_t row, float* dweight, float* dbias) {
  const A::Tag d;
  const auto columns = static_cast<std::size_t>(a.x_rows.columns());
  const X* const x = a.x.data<X>() + a.x_rows.offset(row);
  const G* const dy = a.dy.data<G>() + a.dy_rows.offset(row);
  X* const dx = a.dx.data<X>() + a.dx_rows.offset(row);
  const auto center = A::constant(kCentered ? a.mean[row] : 0.0f);
  const auto factor = A::constant(a.inverse_std[row]);
  const auto normal = [&](V v) { return A::mul(kCentered ? A::sub(v, center) : v, factor); };
  const auto plus = [](auto sum, auto v) { return hn::Add(sum, v); };
  LaneSum along_row;  // of g n
  LaneSum total;      // of g
  for_lanes(
      columns,
      [&](std::size_t k, std::size_t i) {
        const auto gradient = vm::load_float(d, dy + i);
        const auto n = normal(vm::load_float(d, x + i));
        const auto g = A::mul(gradient, hn::LoadU(d, a.scale + i));
        along_row.add(k, A::mul(g, n), plus);
        if constexpr (kCentered) total.add(k, g, plus);
        if (dweight != nullptr) hn::StoreU(A::mul_add(gradient, n, hn::LoadU(d, dweight + i)), d, dweight + i);
        if (dbias != nullptr) hn::StoreU(A::add(gradient, hn::LoadU(d, dbias + i)), d, dbias + i);
      },
      [&](std::size_t k, std::size_t i, std::size_t count) {
        const auto part = [&](const auto* from) { return vm::load_float_part(d, from + i, count); };
        const auto gradient = part(dy);
        const auto n = normal(part(x));
        const auto g = A::mul(gradient, part(a.scale));
        along_row.add_part(k, A::mul(g, n), count, plus);
        if constexpr (kCentered) total.add_part(k, g, count, plus);
        if (dweight != nullptr) vm::store_float_part(A::mul_add(gradient, n, part(dweight)), d, dweight + i, count);
        if (dbias != nullptr) vm::store_float_part(A::add(gradient, part(dbias)), d, dbias + i, count);
      });
  const auto count = static_cast<double>(columns);
  const auto slope = A::constant(static_cast<float>(-along_row.total() / count));
  const auto shift = A::constant(static_cast<float>(kCentered ? -total.total() / count : 0.0));
  const auto gradient = [&](V g, V v, V scale) {
    const auto shifted = kCentered ? A::mul_add(g, scale, shift) : A::mul(g, scale);
    return A::mul_add(normal(v), slope, shifted);
  };
  if (a.add) {
    vm::map([&](V g, V v, V scale, V old) { return A::mul_add(factor, gradient(g, v, scale), old); }, columns, dx, dy,
            x, a.scale, dx);
  } else {
    vm::map([&](V g, V v, V scale) { return A::mul(factor, gradient(g, v, scale)); }, columns, dx, dy, x, a.scale);
  }
}

template <bool kCentered, class X, class G>
void backward_block(const BackwardRows& a, std::int64_t block) {
  const std::int64_t columns = a.x_rows.columns();
  float* const dweight = a.dweight == nullptr ? nullptr : a.dweight + block * columns;
  float* const dbias = a.dbias == nullptr ? nullptr : a.dbias + block * columns;
  if (dweight != nullptr) std::fill_n(dweight, columns, 0.0f);
  if (dbias != nullptr) std::fill_n(dbias, columns, 0.0f);
  const std::int64_t end = std::min((block + 1) * kColumnSumBlock, a.x_rows.count());
  for (std::int64_t row = block * kColumnSumBlock; row < end; ++row)
    backward_row<kCentered, X, G>(a, row, dweight, dbias);
}

void forward_rows(const ForwardRows& a, std::int64_t begin, std::int64_t end) {
  vm::with_type(a.x.dtype(), [&](auto x) {
    vm::with_type(a.y.dtype(), [&](auto y) {
      for (std::int64_t row = begin; row < end; ++row) {
        if (a.centered) {
          forward_row<true, decltype(y), decltype(x)>(a, row);
        } else {
          forward_row<false, decltype(y), decltype(x)>(a, row);
        }
      }
    });
  });
}

void backward_rows(const BackwardRows& a, std::int64_t block) {
  vm::with_type(a.x.dtype(), [&](auto x) {
    vm::with_type(a.dy.dtype(), [&](auto dy) {
      if (a.centered) {
        backward_block<true, decltype(x), decltype(dy)>(a, block);
      } else {
        backward_block<false, decltype(x), decltype(dy)>(a, block);
      }
    });
  });
}

}  // namespace braise::norm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::norm::cpu {
namespace {

HWY_EXPORT(forward_rows);
HWY_EXPORT(backward_rows);

/// A vector of channels as contiguous fp32, plus an offset.
class Channels {
 public:
  Channels(core::Stream& stream, const char* operation, const core::ConstTensorView& tensor, float offset) {
    if (!tensor) return;
    if (tensor.dtype() == core::Dtype::kFloat32 && offset == 0.0f) {
      data_ = tensor.data<float>();
      return;
    }
    copy_ = stream.arena().tensor(core::Dtype::kFloat32, tensor.shape(), core::Category::kWorkspace, operation);
    core::copy(stream, copy_.view, tensor);
    float* const values = copy_.view.data<float>();
    for (std::int64_t i = 0; i < tensor.elements(); ++i) values[i] += offset;
    data_ = values;
  }
  const float* data() const { return data_; }

 private:
  core::Tensor copy_;
  const float* data_ = nullptr;
};

/// One row of sums for each block of rows, or nothing where the sum of all is not wanted.
core::Tensor parts_for(core::Stream& stream, const char* operation, const core::TensorView& sums, std::int64_t blocks) {
  if (!sums) return {};
  return stream.arena().tensor(core::Dtype::kFloat32, {blocks, sums.elements()}, core::Category::kWorkspace, operation);
}

float* data_or_null(const core::TensorView& tensor) {
  return tensor ? tensor.data<float>() : nullptr;
}

}  // namespace

void forward(core::Stream& stream, const Norm& norm, const core::TensorView& y, const core::TensorView& mean,
             const core::TensorView& inverse_std, const core::ConstTensorView& x, const core::ConstTensorView& weight,
             const core::ConstTensorView& bias, float epsilon, float weight_offset) {
  const core::Rows y_rows(norm.operation, "y", y);
  const core::Rows x_rows(norm.operation, "x", x);
  const Channels scale(stream, norm.operation, weight, weight_offset);
  const Channels shift(stream, norm.operation, bias, 0.0f);
  const ForwardRows rows{y,
                         x,
                         y_rows,
                         x_rows,
                         norm.centered,
                         data_or_null(mean),
                         data_or_null(inverse_std),
                         scale.data(),
                         shift.data(),
                         epsilon};
  const std::int64_t count = x_rows.count();
  core::parallel_for((count + kColumnSumBlock - 1) / kColumnSumBlock, [&](std::int64_t block) {
    HWY_DYNAMIC_DISPATCH(forward_rows)(rows, block * kColumnSumBlock, std::min((block + 1) * kColumnSumBlock, count));
  });
}

void backward(core::Stream& stream, const Norm& norm, const core::TensorView& dx, const core::TensorView& dweight,
              const core::TensorView& dbias, const core::ConstTensorView& dy, const core::ConstTensorView& x,
              const core::ConstTensorView& mean, const core::ConstTensorView& inverse_std,
              const core::ConstTensorView& weight, core::Accumulate accumulate, float weight_offset) {
  const core::Rows dx_rows(norm.operation, "dx", dx);
  const core::Rows dy_rows(norm.operation, "dy", dy);
  const core::Rows x_rows(norm.operation, "x", x);
  if (x_rows.count() == 0) return;
  const Channels scale(stream, norm.operation, weight, weight_offset);
  const std::int64_t blocks = (x_rows.count() + kColumnSumBlock - 1) / kColumnSumBlock;
  const core::Tensor weight_parts = parts_for(stream, norm.operation, dweight, blocks);
  const core::Tensor bias_parts = parts_for(stream, norm.operation, dbias, blocks);
  const BackwardRows rows{dx,
                          dy,
                          x,
                          dx_rows,
                          dy_rows,
                          x_rows,
                          norm.centered,
                          accumulate == core::Accumulate::kAdd,
                          mean ? mean.data<float>() : nullptr,
                          inverse_std.data<float>(),
                          scale.data(),
                          data_or_null(weight_parts.view),
                          data_or_null(bias_parts.view)};
  core::parallel_for(blocks, [&](std::int64_t block) { HWY_DYNAMIC_DISPATCH(backward_rows)(rows, block); });
  if (dweight) core::cpu::add_tree_of_rows(dweight, weight_parts.view);
  if (dbias) core::cpu::add_tree_of_rows(dbias, bias_parts.view);
}

}  // namespace braise::norm::cpu
#endif
