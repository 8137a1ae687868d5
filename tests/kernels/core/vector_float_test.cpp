// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/core/vector_float_test.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include "kernels/core/vector_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::HWY_NAMESPACE {

/// r[i] = fma(a[i], b[i], c[i]).
void fused_array(float* r, const float* a, const float* b, const float* c, std::size_t count) {
  const hn::ScalableTag<float> d;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(fused_multiply_add(d, hn::LoadU(d, a + i), hn::LoadU(d, b + i), hn::LoadU(d, c + i)), d, r + i);
  }
}

}  // namespace braise::core::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/philox.h"

namespace braise::core {
namespace {

HWY_EXPORT(fused_array);

void check_fused(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c) {
  std::vector<float> r(a.size());
  HWY_DYNAMIC_DISPATCH(fused_array)(r.data(), a.data(), b.data(), c.data(), a.size());
  std::size_t differences = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float expected = std::fma(a[i], b[i], c[i]);
    if (std::isnan(expected) && std::isnan(r[i])) continue;
    if (std::bit_cast<std::uint32_t>(expected) != std::bit_cast<std::uint32_t>(r[i]) && ++differences < 5) {
      FAIL_CHECK("fma(" << a[i] << ", " << b[i] << ", " << c[i] << ") is " << r[i] << ", not " << expected);
    }
  }
  CHECK(differences == 0);
}

}  // namespace

TEST_CASE("a fused multiply-add rounds once on every tier") {
  constexpr std::size_t kCount = 1u << 19;
  std::vector<float> a(kCount);
  std::vector<float> b(kCount);
  std::vector<float> c(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto words = philox({static_cast<std::uint32_t>(i), 0, 0, 0}, {9, 9});
    a[i] = std::bit_cast<float>(words[0]);
    b[i] = std::bit_cast<float>(words[1]);
    c[i] = std::bit_cast<float>(words[2]);
  }
  check_fused(a, b, c);  // any bits: overflow, NaN, subnormals

  // Addends about the size of the product and of its last places, with few bits set: halfway cases, cancellation, and
  // sums that one rounding to fp64 in between would spoil.
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto words = philox({static_cast<std::uint32_t>(i), 1, 0, 0}, {9, 9});
    const auto number = [](std::uint32_t word, std::uint32_t mask) {
      return std::bit_cast<float>(0x3f800000u | (word & mask & 0x7fffffu)) * ((word >> 31) != 0 ? -1.0f : 1.0f);
    };
    const std::uint32_t mask = 0x7fffffu << (words[3] % 24);
    a[i] = number(words[0], mask);
    b[i] = number(words[1], 0x7fffffu << (words[3] / 24 % 24));
    c[i] =
        std::ldexp(number(words[2], 0x7fffffu << (words[3] / 600 % 24)), static_cast<int>(words[3] / 20000 % 100) - 60);
    if (i % 7 == 0) c[i] = -a[i] * b[i];  // what is left is the rounding of the product
  }
  check_fused(a, b, c);

  // Results that are subnormal or vanish.
  for (std::size_t i = 0; i < kCount; ++i) {
    a[i] = std::ldexp(a[i], -70);
    b[i] = std::ldexp(b[i], -static_cast<int>(i % 12) - 70);
    c[i] = std::ldexp(c[i], -130);
  }
  check_fused(a, b, c);

  const float inf = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  std::vector<float> edge{0.0f, -0.0f, 1.0f,   -1.0f,   inf,       -inf, std::nanf(""),
                          most, -most, 1e-45f, -1e-45f, 0x1p-126f, 2.0f};
  a.clear();
  b.clear();
  c.clear();
  for (const float x : edge) {
    for (const float y : edge) {
      for (const float z : edge) {
        a.push_back(x);
        b.push_back(y);
        c.push_back(z);
      }
    }
  }
  while (a.size() % 16 != 0) {
    a.push_back(1.0f);
    b.push_back(1.0f);
    c.push_back(1.0f);
  }
  check_fused(a, b, c);
}

}  // namespace braise::core
#endif
