// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/random.h"
#include "kernels/core/tensor.h"

namespace braise::core::cpu {

/// words[4 i + k] = random.block(first + i)[k] for i in [0, count).
void random_blocks(const RandomStream& random, std::uint64_t first, std::size_t count, std::uint32_t* words);

enum class Distribution : std::uint8_t { kUniform, kNormal };

/// fill_uniform (shift = low, scale = high - low) and fill_normal (mean, deviation) for a tensor that was checked.
void random_fill(const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                 Distribution distribution, float shift, float scale);

}  // namespace braise::core::cpu
