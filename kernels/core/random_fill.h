// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/device.h"
#include "kernels/core/random.h"
#include "kernels/core/tensor.h"

namespace braise::core {

/// words[i] = random.word(first + i), many at a time. On the CPU, by the calling thread.
void random_words(const RandomStream& random, std::uint64_t first, std::span<std::uint32_t> words);

/// Uniform numbers: element i = low + (high - low) uniform(w), w = random.word(first_element + i), in fp32 with one
/// rounding (so `high` itself may come out), then rounded to the tensor's dtype. `tensor`: floating-point, contiguous;
/// i counts its elements in row-major order. The same bits on every device, tier, thread count, and however a tensor is
/// split. Errors: core::Error for another tensor.
void fill_uniform(Stream& stream, const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                  float low, float high);

/// Normal numbers, in pairs: for an even element e and its neighbour, with the words v = random.word(e) and
/// w = random.word(e + 1),
///   r = sqrt(-2 log((v + 1/2) 2^-32)), z(e) = r cos(2 pi uniform(w)), z(e + 1) = r sin(2 pi uniform(w)),
/// and the element's value is mean + deviation z, in fp32, rounded to the tensor's dtype. |z| < 6.77. All else as
/// fill_uniform. Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
void fill_normal(Stream& stream, const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                 float mean, float deviation);

}  // namespace braise::core
