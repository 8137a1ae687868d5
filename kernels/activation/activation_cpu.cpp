// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation/activation_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <cmath>

#include "kernels/activation/activation_cpu.h"
#include "kernels/core/random_fill.h"
#include "kernels/core/rows.h"
#include "kernels/core/vector_map-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::activation::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace vm = core::HWY_NAMESPACE;
using A = vm::Vector;
using V = A::Float;

// Each function gives f(x), and f(x) with f'(x).

struct Gelu {
  static HWY_INLINE V value(V x) {
    V gaussian;
    return A::mul(x, vm::math::normal_cdf<A>(x, gaussian));
  }
  static HWY_INLINE V value(V x, V& slope) {
    V gaussian;
    const auto cdf = vm::math::normal_cdf<A>(x, gaussian);
    slope = A::mul_add(A::mul(x, gaussian), A::constant(0.39894228f), cdf);  // 1 / sqrt(2 pi)
    return A::mul(x, cdf);
  }
};

/// x s(v(x)) with the sigmoid s: f' = s + x s (1 - s) v'.
struct Silu {
  static HWY_INLINE V value(V x) { return A::mul(x, vm::math::sigmoid<A>(x)); }
  static HWY_INLINE V value(V x, V& slope) {
    V complement;
    const auto s = vm::math::sigmoid<A>(x, complement);
    slope = A::mul_add(x, A::mul(s, complement), s);
    return A::mul(x, s);
  }
};

/// (1 + tanh u) / 2 is the sigmoid of v = 2 u = x (k + l x^2).
struct GeluTanh {
  static constexpr float kK = 1.5957691f;   // 2 sqrt(2 / pi)
  static constexpr float kL = 0.07135481f;  // 0.044715 of that
  static HWY_INLINE V argument(V x) { return A::mul(x, A::mul_add(A::mul(x, x), A::constant(kL), A::constant(kK))); }
  static HWY_INLINE V value(V x) { return A::mul(x, vm::math::sigmoid<A>(argument(x))); }
  static HWY_INLINE V value(V x, V& slope) {
    V complement;
    const auto s = vm::math::sigmoid<A>(argument(x), complement);
    const auto bell = A::mul(s, complement);
    // Beyond 16 the bell is 0 in fp32, and x v' must not be infinite.
    const auto bounded = A::max(A::constant(-16.0f), A::min(A::constant(16.0f), x));
    const auto rise = A::mul_add(A::mul(bounded, bounded), A::constant(3 * kL), A::constant(kK));
    slope = A::mul_add(A::mul(bounded, rise), bell, s);
    return A::mul(x, s);
  }
};

template <class Function, class T>
void forward_piece(T* y, const T* x, std::size_t count) {
  vm::map([](V v) { return Function::value(v); }, count, y, x);
}

template <class Function, class T>
void backward_piece(T* dx, const T* dy, const T* x, std::size_t count, bool add) {
  const auto gradient = [](V g, V v) {
    V slope;
    Function::value(v, slope);
    return A::mul(g, slope);
  };
  if (add) {
    vm::map([&](V g, V v, V old) { return A::add(old, gradient(g, v)); }, count, dx, dy, x, dx);
  } else {
    vm::map(gradient, count, dx, dy, x);
  }
}

template <class Function, class T>
void gated_forward_piece(T* y, const T* gate, const T* up, std::size_t count) {
  vm::map([](V g, V u) { return A::mul(Function::value(g), u); }, count, y, gate, up);
}

template <class Function, class T>
void gated_backward_piece(T* dgate, T* dup, const T* dy, const T* gate, const T* up, std::size_t count, bool add) {
  const auto gradients = [](V& other, V gradient, V g, V u) {
    V slope;
    other = A::mul(gradient, Function::value(g, slope));
    return A::mul(A::mul(gradient, u), slope);
  };
  if (add) {
    vm::map_to_two(
        [&](V& other, V gradient, V g, V u, V old_gate, V old_up) {
          const auto one = gradients(other, gradient, g, u);
          other = A::add(old_up, other);
          return A::add(old_gate, one);
        },
        count, dgate, dup, dy, gate, up, dgate, dup);
  } else {
    vm::map_to_two(gradients, count, dgate, dup, dy, gate, up);
  }
}

template <class Work>
HWY_INLINE void with_types(core::Dtype dtype, Activation activation, const Work& work) {
  vm::with_type(dtype, [&](auto element) {
    switch (activation) {
      case Activation::kGelu:
        return work(element, Gelu());
      case Activation::kGeluTanh:
        return work(element, GeluTanh());
      case Activation::kSilu:
        return work(element, Silu());
    }
  });
}

void forward(core::Dtype dtype, Activation activation, void* y, const void* x, std::size_t count) {
  with_types(dtype, activation, [&](auto element, auto function) {
    using T = decltype(element);
    forward_piece<decltype(function)>(static_cast<T*>(y), static_cast<const T*>(x), count);
  });
}

void backward(core::Dtype dtype, Activation activation, void* dx, const void* dy, const void* x, std::size_t count,
              bool add) {
  with_types(dtype, activation, [&](auto element, auto function) {
    using T = decltype(element);
    backward_piece<decltype(function)>(static_cast<T*>(dx), static_cast<const T*>(dy), static_cast<const T*>(x), count,
                                       add);
  });
}

void forward_gated(core::Dtype dtype, Activation activation, void* y, const void* gate, const void* up,
                   std::size_t count) {
  with_types(dtype, activation, [&](auto element, auto function) {
    using T = decltype(element);
    gated_forward_piece<decltype(function)>(static_cast<T*>(y), static_cast<const T*>(gate), static_cast<const T*>(up),
                                            count);
  });
}

void backward_gated(core::Dtype dtype, Activation activation, void* dgate, void* dup, const void* dy, const void* gate,
                    const void* up, std::size_t count, bool add) {
  with_types(dtype, activation, [&](auto element, auto function) {
    using T = decltype(element);
    gated_backward_piece<decltype(function)>(static_cast<T*>(dgate), static_cast<T*>(dup), static_cast<const T*>(dy),
                                             static_cast<const T*>(gate), static_cast<const T*>(up), count, add);
  });
}

/// y = scale x where the word is at least the threshold, otherwise 0; `words` are as many as `count`.
void drop(core::Dtype dtype, void* y, const void* x, const std::uint32_t* words, std::size_t count,
          std::uint32_t threshold, float scale, bool add) {
  vm::with_type(dtype, [&](auto element) {
    using T = decltype(element);
    auto* const to = static_cast<T*>(y);
    const auto* const from = static_cast<const T*>(x);
    const hn::RebindToSigned<A::Tag> whole;
    const auto sign = hn::Set(whole, std::int32_t{-0x7fffffff - 1});  // turns unsigned order into signed
    const auto bound = hn::Xor(hn::Set(whole, static_cast<std::int32_t>(threshold)), sign);
    // A word's bits travel as an fp32, which a load does not change.
    const auto kept = [&](V v, V word) {
      const auto below = hn::Lt(hn::Xor(hn::BitCast(whole, word), sign), bound);
      return hn::IfThenZeroElse(hn::RebindMask(A::Tag(), below), A::mul(v, A::constant(scale)));
    };
    const auto* const bits = reinterpret_cast<const float*>(words);
    if (add) {
      vm::map([&](V v, V word, V old) { return A::add(old, kept(v, word)); }, count, to, from, bits, to);
    } else {
      vm::map(kept, count, to, from, bits);
    }
  });
}

}  // namespace braise::activation::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::activation::cpu {
namespace {

HWY_EXPORT(forward);
HWY_EXPORT(backward);
HWY_EXPORT(forward_gated);
HWY_EXPORT(backward_gated);
HWY_EXPORT(drop);

using core::element_address;
using core::Rows;

bool adds(core::Accumulate accumulate) {
  return accumulate == core::Accumulate::kAdd;
}

}  // namespace

void activate_row(core::Dtype dtype, Activation activation, void* y, const void* x, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(forward)(dtype, activation, y, x, count);
}

void gate_row(core::Dtype dtype, Activation activation, void* y, const void* gate, const void* up, std::size_t count) {
  HWY_DYNAMIC_DISPATCH(forward_gated)(dtype, activation, y, gate, up, count);
}

void activation_forward(const char* operation, const core::TensorView& y, const core::ConstTensorView& x,
                        Activation activation) {
  core::for_pieces_of_rows(std::array{Rows(operation, "y", y), Rows(operation, "x", x)},
                           [&](const auto& at, std::int64_t, std::int64_t count) {
                             HWY_DYNAMIC_DISPATCH(forward)
                             (x.dtype(), activation, element_address(y, at[0]), element_address(x, at[1]),
                              static_cast<std::size_t>(count));
                           });
}

void activation_backward(const char* operation, const core::TensorView& dx, const core::ConstTensorView& dy,
                         const core::ConstTensorView& x, Activation activation, core::Accumulate accumulate) {
  core::for_pieces_of_rows(std::array{Rows(operation, "dx", dx), Rows(operation, "dy", dy), Rows(operation, "x", x)},
                           [&](const auto& at, std::int64_t, std::int64_t count) {
                             HWY_DYNAMIC_DISPATCH(backward)
                             (x.dtype(), activation, element_address(dx, at[0]), element_address(dy, at[1]),
                              element_address(x, at[2]), static_cast<std::size_t>(count), adds(accumulate));
                           });
}

void gated_forward(const char* operation, const core::TensorView& y, const core::ConstTensorView& gate,
                   const core::ConstTensorView& up, Activation activation) {
  core::for_pieces_of_rows(
      std::array{Rows(operation, "y", y), Rows(operation, "gate", gate), Rows(operation, "up", up)},
      [&](const auto& at, std::int64_t, std::int64_t count) {
        HWY_DYNAMIC_DISPATCH(forward_gated)
        (gate.dtype(), activation, element_address(y, at[0]), element_address(gate, at[1]), element_address(up, at[2]),
         static_cast<std::size_t>(count));
      });
}

void gated_backward(const char* operation, const core::TensorView& dgate, const core::TensorView& dup,
                    const core::ConstTensorView& dy, const core::ConstTensorView& gate, const core::ConstTensorView& up,
                    Activation activation, core::Accumulate accumulate) {
  core::for_pieces_of_rows(
      std::array{Rows(operation, "dgate", dgate), Rows(operation, "dup", dup), Rows(operation, "dy", dy),
                 Rows(operation, "gate", gate), Rows(operation, "up", up)},
      [&](const auto& at, std::int64_t, std::int64_t count) {
        HWY_DYNAMIC_DISPATCH(backward_gated)
        (gate.dtype(), activation, element_address(dgate, at[0]), element_address(dup, at[1]),
         element_address(dy, at[2]), element_address(gate, at[3]), element_address(up, at[4]),
         static_cast<std::size_t>(count), adds(accumulate));
      });
}

void dropout(const char* operation, const core::TensorView& y, const core::ConstTensorView& x, double probability,
             const core::RandomStream& random, std::uint64_t first_element, core::Accumulate accumulate) {
  const double bound = std::nearbyint(probability * 0x1p32);
  // A probability within 2^-33 of 1 rounds to 2^32, which no word reaches: then all are dropped but the last word's.
  const auto threshold = static_cast<std::uint32_t>(std::fmin(bound, 0x1p32 - 1));
  const auto scale = static_cast<float>(1.0 / (1.0 - probability));
  core::for_pieces_of_rows(std::array{Rows(operation, "y", y), Rows(operation, "x", x)},
                           [&](const auto& at, std::int64_t element, std::int64_t count) {
                             HWY_ALIGN std::uint32_t words[1024];
                             for (std::int64_t begin = 0; begin < count; begin += 1024) {
                               const auto part = static_cast<std::size_t>(std::min<std::int64_t>(1024, count - begin));
                               if (threshold > 0) {
                                 core::random_words(random, first_element + static_cast<std::uint64_t>(element + begin),
                                                    std::span(words).first(part));
                               } else {
                                 std::fill_n(words, part, 0u);
                               }
                               HWY_DYNAMIC_DISPATCH(drop)
                               (x.dtype(), element_address(y, at[0] + begin), element_address(x, at[1] + begin), words,
                                part, threshold, scale, adds(accumulate));
                             }
                           });
}

}  // namespace braise::activation::cpu
#endif
