// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/tier.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <hwy/targets.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>

#include "kernels/core/error.h"

namespace braise::core {
namespace {

constexpr std::array<std::string_view, 5> kNames{"baseline", "avx2", "avx512", "avx512_bf16", "amx"};

bool bit(unsigned word, int position) {
  return (word >> position & 1u) != 0;
}

/// What the kernel has switched on, by XGETBV (the instruction needs no flag to compile as bytes).
std::uint64_t enabled_state() {
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

/// Linux gives a process the tile registers on request (since 5.16).
bool tiles_granted() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, not in the headers of every distribution
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Tier detect() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Tier::kBaseline;
  const bool fma = bit(c, 12);
  const bool f16c = bit(c, 29);
  if (!bit(c, 27) || !bit(c, 28)) return Tier::kBaseline;  // OSXSAVE, AVX
  const std::uint64_t state = enabled_state();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Tier::kBaseline;
  const bool avx2 = fma && f16c && bit(b, 5) && bit(b, 3) && bit(b, 8) && (state & 0x6u) == 0x6u;
  if (!avx2) return Tier::kBaseline;
  const bool avx512 = bit(b, 16) && bit(b, 17) && bit(b, 28) && bit(b, 30) && bit(b, 31) && (state & 0xe6u) == 0xe6u;
  if (!avx512) return Tier::kAvx2;
  const bool amx = bit(d, 22) && bit(d, 24) && bit(d, 25) && (state & 0x60000u) == 0x60000u;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || !bit(a, 5)) return Tier::kAvx512;
  return amx && tiles_granted() ? Tier::kAmx : Tier::kAvx512Bf16;
}

std::atomic<Tier>& current() {
  static std::atomic<Tier> tier = detected_tier();
  return tier;
}

std::atomic<bool> settled = false;

}  // namespace

std::string_view name(Tier tier) {
  return kNames[static_cast<std::size_t>(tier)];
}

std::optional<Tier> tier_named(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Tier>(i);
  }
  return std::nullopt;
}

Tier detected_tier() {
  static const Tier tier = detect();
  return tier;
}

Tier tier() {
  return current();
}

bool has_vnni() {
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has && tier() >= Tier::kAvx512;
}

Tier settle_tier() {
  settled = true;
  return current();
}

void pin_tier(Tier tier) {
  if (tier == current()) return;
  if (tier > detected_tier()) {
    throw Error("this processor lacks the instructions of tier " + std::string(name(tier)) + "; its tier is " +
                std::string(name(detected_tier())));
  }
  if (settled) {
    throw Error("the tier cannot become " + std::string(name(tier)) + ": operations were prepared for " +
                std::string(name(current())) + " already");
  }
  current() = tier;
  constexpr std::int64_t kAboveBaseline = HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL | HWY_SSE4;
  constexpr std::int64_t kAboveAvx2 = HWY_AVX3 | HWY_AVX3_DL;
  hwy::DisableTargets(tier == Tier::kBaseline ? kAboveBaseline : tier == Tier::kAvx2 ? kAboveAvx2 : std::int64_t{0});
  hwy::GetChosenTarget().DeInit();  // dispatch tables choose again
}

}  // namespace braise::core
