// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

namespace braise::test {

enum class MathFunction { kExp, kLog, kTanh, kSigmoid, kErf, kNormalCdf, kGaussian, kSin, kCos };

/// to[i] = f(from[i]) for i in [0, count), by the vectors of the tier in use.
void apply_vector(MathFunction function, float* to, const float* from, std::size_t count);

/// The same, one number at a time.
void apply_scalar(MathFunction function, float* to, const float* from, std::size_t count);

}  // namespace braise::test
