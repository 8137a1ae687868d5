// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/random_fill_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/core/parallel.h"
#include "kernels/core/random_fill.h"
#include "kernels/core/random_fill_cpu.h"
#include "kernels/core/vector_map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vm = core::HWY_NAMESPACE;

/// Philox blocks first, first + 1, ... into 4 `count` words. A 64-bit lane holds one block's word in its lower half;
/// the upper half is whatever the multiplications leave, which they do not read.
void philox_blocks(std::array<std::uint32_t, 2> key, std::uint64_t first, std::size_t count, std::uint32_t* words) {
  const hn::ScalableTag<std::uint64_t> d;
  const hn::Repartition<std::uint32_t, decltype(d)> halves;
  const auto product = [&](auto word, std::uint64_t factor) {
    return hn::MulEven(hn::BitCast(halves, word), hn::BitCast(halves, hn::Set(d, factor)));
  };
  const auto upper = [&](auto word) { return hn::BitCast(d, hn::Shuffle2301(hn::BitCast(halves, word))); };
  constexpr std::size_t kRounds = 10;
  hn::Vec<decltype(d)> keys[kRounds][2];
  for (std::size_t round = 0; round < kRounds; ++round) {
    keys[round][0] = hn::Set(d, std::uint64_t{key[0]});
    keys[round][1] = hn::Set(d, std::uint64_t{key[1]});
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  const std::size_t lanes = hn::Lanes(d);
  HWY_ALIGN std::uint64_t last[2 * hn::MaxLanes(d)];
  for (std::size_t block = 0; block < count; block += lanes) {
    const auto index = hn::Add(hn::Set(d, first + block), hn::Iota(d, 0));
    auto c0 = index;
    auto c1 = hn::ShiftRight<32>(index);
    auto c2 = hn::Zero(d);
    auto c3 = hn::Zero(d);
    for (const auto& round_key : keys) {
      const auto a = product(c0, 0xD2511F53u);
      const auto b = product(c2, 0xCD9E8D57u);
      c0 = hn::Xor3(upper(b), c1, round_key[0]);
      c1 = b;
      c2 = hn::Xor3(upper(a), c3, round_key[1]);
      c3 = a;
    }
    const auto low = hn::Set(d, std::uint64_t{0xffffffffu});
    const auto c01 = hn::Or(hn::And(c0, low), hn::ShiftLeft<32>(c1));
    const auto c23 = hn::Or(hn::And(c2, low), hn::ShiftLeft<32>(c3));
    if (block + lanes <= count) {
      hn::StoreInterleaved2(c01, c23, d, reinterpret_cast<std::uint64_t*>(words + 4 * block));
    } else {
      hn::StoreInterleaved2(c01, c23, d, last);
      std::memcpy(words + 4 * block, last, 16 * (count - block));
    }
  }
}

/// values[i] = shift + scale u, for a whole number of vectors.
void uniform_values(const std::uint32_t* words, std::size_t count, float shift, float scale, float* values) {
  const vm::Vector::Tag d;
  const hn::RebindToUnsigned<decltype(d)> word;
  const hn::RebindToSigned<decltype(d)> whole;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto bits = hn::ShiftRight<8>(hn::LoadU(word, words + i));
    const auto u = hn::Mul(hn::ConvertTo(d, hn::BitCast(whole, bits)), hn::Set(d, 0x1p-24f));
    hn::StoreU(vm::fused_multiply_add(d, hn::Set(d, scale), u, hn::Set(d, shift)), d, values + i);
  }
}

/// values[i] = shift + scale z, for a whole number of pairs of vectors.
void normal_values(const std::uint32_t* words, std::size_t count, float shift, float scale, float* values) {
  using A = vm::Vector;
  const A::Tag d;
  const hn::RebindToUnsigned<A::Tag> word;
  const hn::RebindToSigned<A::Tag> whole;
  const auto number = [&](auto bits) { return hn::ConvertTo(d, hn::BitCast(whole, bits)); };
  for (std::size_t i = 0; i < count; i += 2 * hn::Lanes(d)) {
    hn::Vec<decltype(word)> even;
    hn::Vec<decltype(word)> odd;
    hn::LoadInterleaved2(word, words + i, even, odd);
    // In two parts, each of which converts exactly; then one rounding.
    const auto low =
        A::mul_add(number(hn::And(even, hn::Set(word, 0xffu))), A::constant(0x1p-32f), A::constant(0x1p-33f));
    const auto u = A::mul_add(number(hn::ShiftRight<8>(even)), A::constant(0x1p-24f), low);
    const auto radius = A::sqrt(A::mul(A::constant(-2.0f), vm::math::log<A>(u)));
    A::Float sin;
    A::Float cos;
    vm::math::sin_cos_turns<A>(A::mul(number(hn::ShiftRight<8>(odd)), A::constant(0x1p-24f)), sin, cos);
    const auto first = A::mul_add(A::constant(scale), A::mul(radius, cos), A::constant(shift));
    const auto second = A::mul_add(A::constant(scale), A::mul(radius, sin), A::constant(shift));
    hn::StoreInterleaved2(first, second, d, values + i);
  }
}

void convert(Dtype dtype, void* to, std::size_t at, const float* from, std::size_t count) {
  vm::with_type(dtype, [&](auto element) { vm::convert_float(static_cast<decltype(element)*>(to) + at, from, count); });
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(philox_blocks);
HWY_EXPORT(uniform_values);
HWY_EXPORT(normal_values);
HWY_EXPORT(convert);

/// Elements of a piece: a multiple of two vectors, and its words and values stay in L1.
constexpr std::uint64_t kPiece = 1024;

}  // namespace

void random_blocks(const RandomStream& random, std::uint64_t first, std::size_t count, std::uint32_t* words) {
  HWY_DYNAMIC_DISPATCH(philox_blocks)(random.key(), first, count, words);
}

void random_fill(const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                 Distribution distribution, float shift, float scale) {
  const auto count = static_cast<std::uint64_t>(tensor.elements());
  if (count == 0) return;
  // Pieces lie on the stream, so that a pair of normal numbers is never cut.
  const std::uint64_t first_piece = first_element / kPiece;
  const std::uint64_t pieces = (first_element + count - 1) / kPiece - first_piece + 1;
  parallel_for(static_cast<std::int64_t>(pieces), [&](std::int64_t i) {
    HWY_ALIGN std::uint32_t words[kPiece];
    HWY_ALIGN float values[kPiece];
    const std::uint64_t start = (first_piece + static_cast<std::uint64_t>(i)) * kPiece;
    random_blocks(random, start / 4, kPiece / 4, words);
    if (distribution == Distribution::kUniform) {
      HWY_DYNAMIC_DISPATCH(uniform_values)(words, kPiece, shift, scale, values);
    } else {
      HWY_DYNAMIC_DISPATCH(normal_values)(words, kPiece, shift, scale, values);
    }
    const std::uint64_t begin = std::max(start, first_element);
    const std::uint64_t end = std::min(start + kPiece, first_element + count);
    HWY_DYNAMIC_DISPATCH(convert)
    (tensor.dtype(), tensor.raw(), begin - first_element, values + (begin - start), end - begin);
  });
}

}  // namespace braise::core::cpu
#endif
