// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/core/dtype.h"

namespace braise::weights {

/// How a weight file stores elements, little-endian. The order is that of safetensors: by size.
enum class Encoding : std::uint8_t {
  kBool,  ///< a byte that is 0 or 1
  kU8,
  kI8,
  kF8E5m2,  ///< the upper byte of an fp16
  kF8E4m3,  ///< bias 7, no infinity, NaN where all other bits are set
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
  kQ8_0,  ///< blocks of kernels/quant/ggml_blocks.h
  kQ4_0,
  kQ4_1,
  kOther,  ///< one that is only listed
};

/// The name both safetensors and GGUF write: "BF16", "F8_E4M3", "Q4_0". Not of kOther.
std::string_view name(Encoding encoding);

/// The encoding safetensors calls so, if there is one.
std::optional<Encoding> safetensors_encoding(std::string_view name);

/// Bytes of one element, for what safetensors stores.
std::int64_t element_bytes(Encoding encoding);

/// The dtype with the same bytes, if there is one.
std::optional<core::Dtype> same_dtype(Encoding encoding);

/// The encoding with the same bytes. Errors: core::Error for int4, which no weight file has.
Encoding encoding_of(core::Dtype dtype);

bool is_float(Encoding encoding);    ///< blocks included
bool is_integer(Encoding encoding);  ///< kBool included

}  // namespace braise::weights
