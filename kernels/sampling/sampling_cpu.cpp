// SPDX-License-Identifier: Apache-2.0
#include "kernels/sampling/sampling_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sampling/sampling_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/core/vector_map-inl.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/random.h"

#ifndef BRAISE_SAMPLING_ONCE
#define BRAISE_SAMPLING_ONCE
namespace braise::sampling::cpu {

struct Extremes {
  float maximum = 0;
  bool usable = false;  ///< whether the maximum is a number, and no logit a NaN
};

}  // namespace braise::sampling::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::sampling::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vm = core::HWY_NAMESPACE;
using A = vm::Vector;

void find_extremes(Extremes& extremes, const float* logits, std::size_t count) {
  const A::Tag d;
  const std::size_t n = hn::Lanes(d);
  const float lowest = -std::numeric_limits<float>::infinity();
  auto maximum = hn::Set(d, lowest);
  auto nan = hn::FirstN(d, 0);
  std::size_t i = 0;
  for (; i + n <= count; i += n) {
    const auto z = hn::LoadU(d, logits + i);
    maximum = hn::Max(maximum, z);
    nan = hn::Or(nan, hn::IsNaN(z));
  }
  extremes.maximum = hn::GetLane(hn::MaxOfLanes(d, maximum));
  extremes.usable = hn::AllFalse(d, nan);
  for (; i < count; ++i) {
    extremes.maximum = std::max(extremes.maximum, logits[i]);
    extremes.usable = extremes.usable && !std::isnan(logits[i]);
  }
  extremes.usable = extremes.usable && std::isfinite(extremes.maximum);
}

void weigh(float* weights, const float* logits, std::size_t count, float maximum, float temperature) {
  const auto largest = A::constant(maximum);
  const auto divisor = A::constant(temperature);
  vm::map([&](A::Float z) { return vm::math::exp<A>(A::div(A::sub(z, largest), divisor)); }, count, weights, logits);
}

}  // namespace braise::sampling::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::sampling::cpu {
namespace {

HWY_EXPORT(find_extremes);
HWY_EXPORT(weigh);

/// Tokens in a block of a sum over ids.
constexpr std::size_t kBlock = 256;

/// How many of the first ranks are sorted at first, for top-p; then four times as many, and so on.
constexpr std::size_t kFirstRanks = 64;

struct Ranked {
  float logit;
  std::int32_t id;
  bool operator<(const Ranked& other) const { return logit > other.logit || (logit == other.logit && id < other.id); }
};

/// One thread's memory for a row.
struct Scratch {
  std::span<float> weights;
  std::span<Ranked> ranks;
  static std::int64_t bytes(std::int64_t tokens) {
    constexpr std::int64_t kCacheLine = 64;
    const std::int64_t each = static_cast<std::int64_t>(sizeof(Ranked) + sizeof(float));
    return (tokens * each + kCacheLine - 1) / kCacheLine * kCacheLine;
  }
  Scratch(std::byte* memory, std::size_t tokens)
      : weights(reinterpret_cast<float*>(memory + tokens * sizeof(Ranked)), tokens),
        ranks(reinterpret_cast<Ranked*>(memory), tokens) {}
};

double block_sum(std::span<const float> weights, std::size_t block) {
  double sum = 0;
  for (const float w : weights.subspan(block, std::min(kBlock, weights.size() - block))) sum += w;
  return sum;
}

double sum_by_id(std::span<const float> weights) {
  double sum = 0;
  for (std::size_t block = 0; block < weights.size(); block += kBlock) sum += block_sum(weights, block);
  return sum;
}

/// Only the tokens up to the rank of `last` keep their weights.
void cut_after(const Ranked& last, std::span<float> weights, std::span<const float> logits) {
  for (std::size_t v = 0; v < weights.size(); ++v) {
    if (last < Ranked{logits[v], static_cast<std::int32_t>(v)}) weights[v] = 0;
  }
}

/// The last rank that top-p keeps. Ranks are sorted as far as needed only.
Ranked last_of_top_p(std::span<Ranked> ranks, std::span<const float> weights, double target) {
  double sum = 0;
  std::size_t sorted = 0;
  for (std::size_t wanted = kFirstRanks; sorted < ranks.size(); wanted *= 4) {
    const auto begin = ranks.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, ranks.size()));
    std::partial_sort(begin, end, ranks.end());
    for (auto rank = begin; rank != end; ++rank) {
      sum += weights[static_cast<std::size_t>(rank->id)];
      if (sum >= target) return *rank;
    }
    sorted = std::min(wanted, ranks.size());
  }
  return ranks.back();  // the sum by ranks may fall short of the sum by ids by its rounding
}

/// u < 1 by 2^-53 at least, so the target stays below the sum of all blocks, and a block's sum is what its last token
/// brings it to: a token is always found, and its weight is not 0.
std::int32_t draw(std::span<const float> weights, const Choice& choice) {
  const core::RandomStream random(choice.seed, core::Purpose::kSampling, choice.request);
  const auto words = random.block(choice.token);
  const double u = static_cast<double>((std::uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
  const double target = u * sum_by_id(weights);
  double before = 0;
  std::size_t block = 0;
  for (double sum = block_sum(weights, 0); before + sum <= target; sum = block_sum(weights, block)) {
    before += sum;
    block += kBlock;
  }
  std::size_t token = block;
  for (double sum = weights[token]; before + sum <= target; sum += weights[token]) ++token;
  return static_cast<std::int32_t>(token);
}

std::int32_t sample_row(std::span<const float> logits, float maximum, const Choice& choice, const Scratch& scratch) {
  if (choice.temperature == 0) {
    return static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), maximum) - logits.begin());
  }
  HWY_DYNAMIC_DISPATCH(weigh)
  (scratch.weights.data(), logits.data(), logits.size(), maximum, choice.temperature);
  const bool cuts_ranks = choice.top_k > 0 && choice.top_k < std::ssize(logits);
  std::span<Ranked> ranks = scratch.ranks;
  if (cuts_ranks || choice.top_p < 1) {
    for (std::size_t v = 0; v < logits.size(); ++v) ranks[v] = {logits[v], static_cast<std::int32_t>(v)};
  }
  if (cuts_ranks) {
    const auto last = ranks.begin() + choice.top_k - 1;
    std::nth_element(ranks.begin(), last, ranks.end());
    cut_after(*last, scratch.weights, logits);
    ranks = ranks.first(static_cast<std::size_t>(choice.top_k));
  }
  if (choice.top_p < 1) {
    const Ranked last = last_of_top_p(ranks, scratch.weights, choice.top_p * sum_by_id(scratch.weights));
    cut_after(last, scratch.weights, logits);
  }
  return draw(scratch.weights, choice);
}

[[noreturn]] void fail(std::span<const float> logits, std::size_t row) {
  std::size_t token = 0;
  while (token < logits.size() && std::isinf(logits[token]) && logits[token] < 0) ++token;
  const std::string of_row = " of row " + std::to_string(row);
  if (token == logits.size()) throw core::Error("sample: every logit" + of_row + " is -inf");
  const auto bad = [](float z) { return std::isnan(z) || z == std::numeric_limits<float>::infinity(); };
  while (!bad(logits[token])) ++token;
  throw core::Error("sample: the logit of token " + std::to_string(token) + of_row + " is " +
                    (std::isnan(logits[token]) ? "NaN" : "+inf"));
}

}  // namespace

void sample(core::Stream& stream, const core::TensorView& ids, const core::ConstTensorView& logits,
            std::span<const Choice> rows) {
  const auto tokens = static_cast<std::size_t>(logits.extent(1));
  const auto row_of = [&](std::size_t row) {
    return std::span(logits.data<float>() + static_cast<std::int64_t>(row) * logits.stride(0), tokens);
  };
  const std::int64_t scratch_bytes = Scratch::bytes(logits.extent(1));
  const core::Buffer memory =
      stream.arena().allocate(core::threads() * scratch_bytes, core::Category::kWorkspace, "sample");
  std::vector<Extremes> extremes(rows.size());
  core::parallel_for(std::ssize(rows), [&](std::int64_t i) {
    const auto row = static_cast<std::size_t>(i);
    HWY_DYNAMIC_DISPATCH(find_extremes)(extremes[row], row_of(row).data(), tokens);
    if (!extremes[row].usable) return;
    const Scratch scratch(static_cast<std::byte*>(memory.data()) + core::thread_index() * scratch_bytes, tokens);
    ids.data<std::int32_t>()[row] = sample_row(row_of(row), extremes[row].maximum, rows[row], scratch);
  });
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (!extremes[row].usable) fail(row_of(row), row);
  }
}

}  // namespace braise::sampling::cpu
#endif
