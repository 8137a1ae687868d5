// SPDX-License-Identifier: Apache-2.0
#include "kernels/loss/cross_entropy_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/loss/cross_entropy_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/core/arena.h"
#include "kernels/core/math.h"
#include "kernels/core/parallel.h"
#include "kernels/core/soft_cap_cpu.h"
#include "kernels/linear/product_tiles.h"
#include "kernels/linear/tile_product.h"

#ifndef BRAISE_CROSS_ENTROPY_ONCE
#define BRAISE_CROSS_ENTROPY_ONCE
namespace braise::loss::cpu {

/// What a part of a row's logits gives to its loss.
struct Partial {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0;        ///< of exp(z - maximum)
  float logit_sum = 0;  ///< of z
};

/// dz[v] = (factor exp(z[v] - log_sum) - uniform) slope(z[v]), but for the target.
struct RowGradient {
  float factor;
  float log_sum;
  float uniform;
  float cap;  ///< of logits; 0: none
};

/// By how much a capped logit moves with the logit.
inline float cap_slope(float logit, float cap) {
  return cap > 0 ? 1 - (logit / cap) * (logit / cap) : 1.0f;
}

}  // namespace braise::loss::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::loss::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::size_t kLanes = std::tuple_size_v<ch::PartialSums>;

/// `count` logits, with room for vectors behind them.
void summarise(Partial& partial, float* logits, std::size_t count) {
  const hn::ScalableTag<float> d;
  const std::size_t n = hn::Lanes(d);
  const float lowest = -std::numeric_limits<float>::infinity();
  const std::size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  std::fill(logits + count, logits + padded, lowest);
  auto maximum = hn::Set(d, lowest);
  for (std::size_t i = 0; i < padded; i += n) maximum = hn::Max(maximum, hn::LoadU(d, logits + i));
  partial.maximum = hn::GetLane(hn::MaxOfLanes(d, maximum));
  const auto shift = hn::Set(d, partial.maximum);
  HWY_ALIGN ch::PartialSums sums{};
  for (std::size_t block = 0; block < padded; block += kLanes) {
    for (std::size_t i = 0; i < kLanes; i += n) {
      const auto e = ch::math::exp<ch::Vector>(hn::Sub(hn::LoadU(d, logits + block + i), shift));
      hn::Store(hn::Add(hn::Load(d, sums.data() + i), e), d, sums.data() + i);
    }
  }
  partial.sum = ch::sum_by_halves(sums);
  std::fill(logits + count, logits + padded, 0.0f);
  sums.fill(0);
  for (std::size_t block = 0; block < padded; block += kLanes) {
    for (std::size_t i = 0; i < kLanes; i += n) {
      hn::Store(hn::Add(hn::Load(d, sums.data() + i), hn::LoadU(d, logits + block + i)), d, sums.data() + i);
    }
  }
  partial.logit_sum = ch::sum_by_halves(sums);
}

/// logits -> gradients, in place.
void differentiate(float* logits, std::size_t count, const RowGradient& row) {
  const hn::ScalableTag<float> d;
  const std::size_t n = hn::Lanes(d);
  const auto factor = hn::Set(d, row.factor);
  const auto shift = hn::Set(d, row.log_sum);
  const auto uniform = hn::Set(d, row.uniform);
  for (std::size_t i = 0; i < count; i += n) {  // rows are padded to whole vectors
    const auto p = ch::math::exp<ch::Vector>(hn::Sub(hn::LoadU(d, logits + i), shift));
    auto gradient = hn::Sub(hn::Mul(p, factor), uniform);
    if (row.cap > 0) {
      const auto tanh = hn::Div(hn::LoadU(d, logits + i), hn::Set(d, row.cap));
      gradient = hn::Mul(gradient, hn::Sub(hn::Set(d, 1.0f), hn::Mul(tanh, tanh)));
    }
    hn::StoreU(gradient, d, logits + i);
  }
}

void store(const core::TensorView& dz, std::int64_t row, std::int64_t column, const float* from, std::size_t count) {
  const std::int64_t offset = row * dz.stride(0) + column;
  ch::with_type(dz.dtype(),
                [&](auto element) { ch::convert_float(dz.data<decltype(element)>() + offset, from, count); });
}

}  // namespace braise::loss::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::loss::cpu {
namespace {

HWY_EXPORT(summarise);
HWY_EXPORT(differentiate);
HWY_EXPORT(store);

namespace lc = linear::cpu;
using core::math::Scalar;

void cap_logits(float* logits, std::int64_t count, float cap) {
  if (cap > 0) core::cpu::soft_cap_row(logits, count, 1 / cap, cap);
}

}  // namespace

void partial(core::Stream& stream, const core::TensorView& partials, const core::ConstTensorView& x,
             const linear::PackedMatrix& w, const core::ConstTensorView& targets, const CrossEntropy& settings,
             const core::VocabularyPart& part) {
  const std::int64_t rows = x.extent(0);
  const std::int64_t tokens = w.columns();
  const std::int64_t tiles = (tokens + lc::kTileColumns - 1) / lc::kTileColumns;
  const core::Buffer memory = stream.arena().allocate(rows * tiles * static_cast<std::int64_t>(sizeof(Partial)),
                                                      core::Category::kWorkspace, "cross_entropy");
  auto* const of_tiles = static_cast<Partial*>(memory.data());
  float* const results = partials.data<float>();
  const std::int32_t* const target = targets.data<std::int32_t>();
  for (std::int64_t row = 0; row < rows; ++row) results[row * kPartials + 3] = 0;

  lc::product_tiles(stream, x, w.data(), tokens, 0, tokens, [&](const lc::Tile& tile) {
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      const std::int64_t row = tile.row + i;
      float* const logits = tile.sums + i * tile.pitch;
      cap_logits(logits, tile.columns, settings.logit_cap);
      const std::int64_t at = target[row] - part.first - tile.column;
      if (at >= 0 && at < tile.columns) results[row * kPartials + 3] = logits[at];
      HWY_DYNAMIC_DISPATCH(summarise)
      (of_tiles[row * tiles + tile.column / lc::kTileColumns], logits, static_cast<std::size_t>(tile.columns));
    }
  });

  core::parallel_for(rows, [&](std::int64_t row) {
    const Partial* const parts = of_tiles + row * tiles;
    float maximum = parts[0].maximum;
    for (std::int64_t i = 1; i < tiles; ++i) maximum = std::max(maximum, parts[i].maximum);
    float sum = 0;
    float logit_sum = 0;
    for (std::int64_t i = 0; i < tiles; ++i) {
      sum += parts[i].sum * core::math::exp<Scalar>(parts[i].maximum - maximum);
      logit_sum += parts[i].logit_sum;
    }
    results[row * kPartials] = maximum;
    results[row * kPartials + 1] = sum;
    results[row * kPartials + 2] = logit_sum;
  });
}

void combine(const core::TensorView& losses, const core::TensorView& log_sums, const core::ConstTensorView& partials,
             const core::ConstTensorView& targets, const CrossEntropy& settings, std::int64_t vocabulary) {
  const std::int64_t rows = partials.extent(1);
  const std::int32_t* const target = targets.data<std::int32_t>();
  core::parallel_for(rows, [&](std::int64_t row) {
    const auto of_part = [&](std::int64_t part) { return partials.data<float>() + (part * rows + row) * kPartials; };
    float maximum = of_part(0)[0];
    for (std::int64_t i = 1; i < partials.extent(0); ++i) maximum = std::max(maximum, of_part(i)[0]);
    float sum = 0;
    float logit_sum = 0;
    float target_logit = 0;
    for (std::int64_t i = 0; i < partials.extent(0); ++i) {
      const float* const part = of_part(i);
      sum += part[1] * core::math::exp<Scalar>(part[0] - maximum);
      logit_sum += part[2];
      target_logit += part[3];
    }
    const float log_sum = maximum + core::math::log<Scalar>(sum);
    log_sums.data<float>()[row] = log_sum;
    float loss = 0;
    if (target[row] != settings.ignore) {
      const float a = settings.label_smoothing;
      loss = log_sum - (1 - a) * target_logit;
      if (a > 0) loss -= a * (logit_sum / static_cast<float>(vocabulary));
      if (settings.z_loss > 0) loss += settings.z_loss * log_sum * log_sum;
    }
    losses.data<float>()[row] = loss;
  });
}

void logit_gradients(core::Stream& stream, const core::TensorView& dz, const core::ConstTensorView& gradients,
                     const core::ConstTensorView& log_sums, const core::ConstTensorView& x,
                     const linear::PackedMatrix& w, const core::ConstTensorView& targets, const CrossEntropy& settings,
                     const core::VocabularyPart& part, std::int64_t begin, std::int64_t end) {
  const std::int32_t* const target = targets.data<std::int32_t>();
  lc::product_tiles(stream, x, w.data(), w.columns(), begin, end, [&](const lc::Tile& tile) {
    const auto count = static_cast<std::size_t>(tile.columns);
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      const std::int64_t row = tile.row + i;
      float* const logits = tile.sums + i * tile.pitch;
      if (target[row] == settings.ignore) {
        std::fill_n(logits, count, 0.0f);
      } else {
        const float gradient = gradients.data<float>()[row];
        const float log_sum = log_sums.data<float>()[row];
        RowGradient each{};
        each.factor = gradient * (1 + 2 * settings.z_loss * log_sum);
        each.log_sum = log_sum;
        each.uniform = gradient * settings.label_smoothing / static_cast<float>(part.vocabulary);
        each.cap = settings.logit_cap;
        cap_logits(logits, tile.columns, settings.logit_cap);
        const std::int64_t at = target[row] - part.first - tile.column;
        const bool has_target = at >= 0 && at < tile.columns;
        const float slope = has_target ? cap_slope(logits[at], settings.logit_cap) : 0;
        HWY_DYNAMIC_DISPATCH(differentiate)(logits, count, each);
        if (has_target) logits[at] -= gradient * (1 - settings.label_smoothing) * slope;
      }
      HWY_DYNAMIC_DISPATCH(store)(dz, row, tile.column - begin, logits, count);
    }
  });
}

}  // namespace braise::loss::cpu
#endif
