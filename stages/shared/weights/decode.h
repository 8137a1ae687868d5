// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "stages/shared/weights/encoding.h"

namespace braise::weights {

/// Where the decoded numbers go, and what is rounded there: every encoding but F64 is exact in fp32.
enum class Rounding {
  kNearest,  ///< ties to even
  kToOdd,    ///< so that a second rounding, to bf16 or fp16, gives what one would
};

/// to[i] = element i, of a floating-point encoding that is not blocks. `from` may lie at any address and holds
/// to.size() elements.
void decode_floats(Encoding encoding, const std::byte* from, std::span<float> to, Rounding rounding);

/// A number that does not fit where it should go.
struct Unfit {
  std::size_t element = 0;
  bool negative = false;
  std::uint64_t magnitude = 0;
};

/// The same for integers; T is int8 or int32. Stops at the first that does not fit, or at a BOOL that is not 0 or 1.
template <class T>
std::optional<Unfit> decode_integers(Encoding encoding, const std::byte* from, std::span<T> to);

}  // namespace braise::weights
