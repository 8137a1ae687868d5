// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/rope_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "kernels/attention/rope_cpu.h"
#include "kernels/core/parallel.h"
#include "kernels/core/rows.h"
#include "kernels/core/vector_map-inl.h"

#ifndef BRAISE_KERNELS_ATTENTION_ROPE_CPU_CPP_
#define BRAISE_KERNELS_ATTENTION_ROPE_CPU_CPP_
namespace braise::attention::cpu {

/// The heads of one token.
struct RopeToken {
  core::Dtype dtype;
  void* y;
  const void* x;
  std::int64_t y_stride;  // between heads
  std::int64_t x_stride;
  std::int64_t heads;
  std::size_t head_size;
  std::size_t pairs;
  const float* cos;
  const float* sin;
  RopePairing pairing;
  bool back;
};

}  // namespace braise::attention::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace braise::attention::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vm = core::HWY_NAMESPACE;
using A = vm::Vector;
using V = A::Float;

/// Turns pairs (a, b) by the angles of `c` and `s`.
HWY_INLINE void turn(V& a, V& b, V c, V s) {
  const auto first = A::mul_add(a, c, A::negate(A::mul(b, s)));
  b = A::mul_add(b, c, A::mul(a, s));
  a = first;
}

HWY_INLINE V signed_sin(V sin, bool back) {
  return back ? A::negate(sin) : sin;
}

template <class T>
void turn_halves(const RopeToken& token, T* y, const T* x) {
  const A::Tag d;
  const std::size_t pairs = token.pairs;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= pairs; i += hn::Lanes(d)) {
    auto a = vm::load_float(d, x + i);
    auto b = vm::load_float(d, x + pairs + i);
    turn(a, b, hn::LoadU(d, token.cos + i), signed_sin(hn::LoadU(d, token.sin + i), token.back));
    vm::store_float(a, d, y + i);
    vm::store_float(b, d, y + pairs + i);
  }
  if (i < pairs) {
    const std::size_t rest = pairs - i;
    auto a = vm::load_float_part(d, x + i, rest);
    auto b = vm::load_float_part(d, x + pairs + i, rest);
    turn(a, b, vm::load_float_part(d, token.cos + i, rest),
         signed_sin(vm::load_float_part(d, token.sin + i, rest), token.back));
    vm::store_float_part(a, d, y + i, rest);
    vm::store_float_part(b, d, y + pairs + i, rest);
  }
}

template <class T>
void turn_interleaved(const RopeToken& token, T* y, const T* x) {
  const A::Tag d;
  const std::size_t lanes = hn::Lanes(d);
  HWY_ALIGN float both[2 * hn::MaxLanes(d)];
  const auto turn_vectors = [&](T* to, const T* from, V c, V s) {
    hn::Store(vm::load_float(d, from), d, both);
    hn::Store(vm::load_float(d, from + lanes), d, both + lanes);
    V a;
    V b;
    hn::LoadInterleaved2(d, both, a, b);
    turn(a, b, c, signed_sin(s, token.back));
    hn::StoreInterleaved2(a, b, d, both);
    vm::store_float(hn::Load(d, both), d, to);
    vm::store_float(hn::Load(d, both + lanes), d, to + lanes);
  };
  std::size_t i = 0;
  for (; i + lanes <= token.pairs; i += lanes) {
    turn_vectors(y + 2 * i, x + 2 * i, hn::LoadU(d, token.cos + i), hn::LoadU(d, token.sin + i));
  }
  if (i < token.pairs) {
    const std::size_t rest = token.pairs - i;
    HWY_ALIGN T last[2 * hn::MaxLanes(d)] = {};
    std::memcpy(last, x + 2 * i, 2 * rest * sizeof(T));
    turn_vectors(last, last, vm::load_float_part(d, token.cos + i, rest), vm::load_float_part(d, token.sin + i, rest));
    std::memcpy(y + 2 * i, last, 2 * rest * sizeof(T));
  }
}

template <class T>
void turn_heads(const RopeToken& token) {
  auto* const y = static_cast<T*>(token.y);
  const auto* const x = static_cast<const T*>(token.x);
  const std::size_t rotary = 2 * token.pairs;
  for (std::int64_t head = 0; head < token.heads; ++head) {
    T* const to = y + head * token.y_stride;
    const T* const from = x + head * token.x_stride;
    if (token.pairing == RopePairing::kHalves) {
      turn_halves(token, to, from);
    } else {
      turn_interleaved(token, to, from);
    }
    if (to != from) std::memcpy(to + rotary, from + rotary, (token.head_size - rotary) * sizeof(T));
  }
}

void turn_token(const RopeToken& token) {
  vm::with_type(token.dtype, [&](auto element) { turn_heads<decltype(element)>(token); });
}

}  // namespace braise::attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::attention::cpu {
namespace {

HWY_EXPORT(turn_token);

}  // namespace

void rope(const char* operation, const core::TensorView& y, const core::ConstTensorView& x, const RopeTable& table,
          const RopePositions& positions, RopePairing pairing, bool back) {
  const std::int64_t length = x.extent(1);
  const std::int64_t tokens = x.extent(0) * length;
  const auto* const ids = positions.ids ? positions.ids.data<std::int32_t>() : nullptr;
  const std::int64_t known = table.cos.view.extent(0);
  const std::int64_t pairs = table.cos.view.extent(1);
  core::require(ids == nullptr || std::all_of(ids, ids + tokens, [&](auto id) { return id >= 0 && id < known; }),
                operation, "a position is not in the table");
  core::parallel_for(tokens, [&](std::int64_t i) {
    const std::int64_t b = i / length;
    const std::int64_t t = i % length;
    const std::int64_t position = ids != nullptr ? ids[i] : positions.first + t;
    const RopeToken token{x.dtype(),
                          core::element_address(y, b * y.stride(0) + t * y.stride(1)),
                          core::element_address(x, b * x.stride(0) + t * x.stride(1)),
                          y.stride(2),
                          x.stride(2),
                          x.extent(2),
                          static_cast<std::size_t>(x.extent(3)),
                          static_cast<std::size_t>(pairs),
                          table.cos.view.data<float>() + position * pairs,
                          table.sin.view.data<float>() + position * pairs,
                          pairing,
                          back};
    HWY_DYNAMIC_DISPATCH(turn_token)(token);
  });
}

}  // namespace braise::attention::cpu
#endif
