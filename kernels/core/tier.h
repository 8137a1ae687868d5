// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace braise::core {

/// Sets of instructions the CPU code has versions for; each includes those before it. Results are the same to the bit
/// within a tier, and may differ between tiers.
enum class Tier : std::uint8_t {
  kBaseline,    ///< x86-64-v2
  kAvx2,        ///< and FMA
  kAvx512,      ///< F, BW, CD, DQ, VL; with VNNI where the processor has it
  kAvx512Bf16,  ///< bf16 dot products
  kAmx,         ///< bf16 and int8 tiles
};

/// "baseline", "avx2", "avx512", "avx512_bf16", "amx".
std::string_view name(Tier tier);
std::optional<Tier> tier_named(std::string_view name);

/// The highest tier this processor and kernel have.
Tier detected_tier();

/// The tier in use: the detected one, or what pin_tier set.
Tier tier();

/// Whether dot products of int8 are to be used (AVX512-VNNI): where the tier in use is at least kAvx512 and the
/// processor has them. They are exact, so that they change no bits.
bool has_vnni();

/// Uses this tier from now on, for the whole process.
/// Errors: core::Error if the processor lacks it, or if settle_tier was called under another.
void pin_tier(Tier tier);

/// The tier in use, from now on for good: what an operation calls that prepares something for it (a matrix product,
/// whose packed weights and compiled code belong to one tier).
Tier settle_tier();

}  // namespace braise::core
