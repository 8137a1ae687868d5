// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace braise::reference {

/// Rows x C as integers, and rows x ceil(C / group) scales.
struct Quantized {
  std::vector<double> q;
  std::vector<double> scales;
};

/// kernels/quant/quantize.h. Each fp32 operation is a double one rounded once more, which gives the same bits: the
/// quotient and the product of two fp32 do not fall between two fp32 in their first 53 bits unless they lie there.
inline Quantized quantize_groups(const std::vector<double>& x, std::size_t rows, std::size_t columns, std::size_t group,
                                 double limit) {
  Quantized result;
  result.q.resize(x.size());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t begin = 0; begin < columns; begin += group) {
      const std::size_t end = std::min(columns, begin + group);
      double largest = 0;
      bool finite = true;
      for (std::size_t i = begin; i < end; ++i) {
        const double value = x[row * columns + i];
        finite = finite && std::isfinite(value);
        if (std::abs(value) > largest) largest = std::abs(value);
      }
      const double scale = finite ? static_cast<float>(largest / limit) : std::numeric_limits<double>::quiet_NaN();
      result.scales.push_back(scale);
      for (std::size_t i = begin; i < end; ++i) {
        const double quotient = static_cast<float>(x[row * columns + i] / scale);
        result.q[row * columns + i] = scale > 0 ? std::clamp(std::nearbyint(quotient), -limit, limit) : 0.0;
      }
    }
  }
  return result;
}

inline std::vector<double> dequantize_groups(const Quantized& quantized, std::size_t rows, std::size_t columns,
                                             std::size_t group) {
  std::vector<double> x(quantized.q.size());
  const std::size_t groups = (columns + group - 1) / group;
  for (std::size_t i = 0; i < rows * columns; ++i) {
    x[i] = static_cast<float>(quantized.q[i] * quantized.scales[i / columns * groups + i % columns / group]);
  }
  return x;
}

/// kernels/quant/int8_matmul.h: what the sums are of exact terms, and with each term as large as it is.
struct IntegerProduct {
  std::vector<double> y;
  std::vector<double> magnitudes;
};

/// x: rows x depth, b: columns x depth.
inline IntegerProduct int8_matmul(const Quantized& x, const Quantized& b, std::size_t rows, std::size_t depth,
                                  std::size_t columns, std::size_t group) {
  IntegerProduct product;
  const std::size_t groups = (depth + group - 1) / group;
  for (std::size_t m = 0; m < rows; ++m) {
    for (std::size_t n = 0; n < columns; ++n) {
      double sum = 0, magnitude = 0;
      for (std::size_t g = 0; g < groups; ++g) {
        double dot = 0;
        for (std::size_t k = g * group; k < std::min(depth, (g + 1) * group); ++k) {
          dot += x.q[m * depth + k] * b.q[n * depth + k];
        }
        const double term = x.scales[m * groups + g] * b.scales[n * groups + g] * dot;
        sum += term;
        magnitude += std::abs(term);
      }
      product.y.push_back(sum);
      product.magnitudes.push_back(magnitude);
    }
  }
  return product;
}

/// The same in the arithmetic that its header spells out, to the bit.
inline std::vector<double> int8_matmul_as_spelled(const Quantized& x, const Quantized& b, std::size_t rows,
                                                  std::size_t depth, std::size_t columns, std::size_t group) {
  std::vector<double> y;
  const std::size_t groups = (depth + group - 1) / group;
  for (std::size_t m = 0; m < rows; ++m) {
    for (std::size_t n = 0; n < columns; ++n) {
      float sum = 0;
      for (std::size_t g = 0; g < groups; ++g) {
        double dot = 0;
        for (std::size_t k = g * group; k < std::min(depth, (g + 1) * group); ++k) {
          dot += x.q[m * depth + k] * b.q[n * depth + k];
        }
        const auto scale = static_cast<float>(x.scales[m * groups + g] * b.scales[n * groups + g]);
        sum = std::fma(scale, static_cast<float>(dot), sum);
      }
      y.push_back(static_cast<double>(sum));
    }
  }
  return y;
}

/// An fp16 from its two bytes.
inline double half(const std::string& bytes, std::size_t at) {
  const unsigned word =
      static_cast<unsigned char>(bytes[at]) | static_cast<unsigned>(static_cast<unsigned char>(bytes[at + 1])) << 8;
  const int exponent = static_cast<int>(word >> 10 & 31);
  const int mantissa = static_cast<int>(word & 1023);
  double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 31) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return (word & 0x8000u) != 0 ? -magnitude : magnitude;
}

/// kernels/quant/ggml_blocks.h: the elements of a number of blocks.
inline std::vector<double> dequantize_q8_0(const std::string& blocks) {
  std::vector<double> x;
  for (std::size_t block = 0; block + 34 <= blocks.size(); block += 34) {
    for (std::size_t i = 0; i < 32; ++i) {
      x.push_back(half(blocks, block) * static_cast<std::int8_t>(blocks[block + 2 + i]));
    }
  }
  return x;
}

/// Element i of 16 bytes of nibbles.
inline int nibble(const std::string& bytes, std::size_t at, std::size_t i) {
  const auto byte = static_cast<unsigned char>(bytes[at + i % 16]);
  return i < 16 ? byte & 15 : byte >> 4;
}

inline std::vector<double> dequantize_q4_0(const std::string& blocks) {
  std::vector<double> x;
  for (std::size_t block = 0; block + 18 <= blocks.size(); block += 18) {
    for (std::size_t i = 0; i < 32; ++i) x.push_back(half(blocks, block) * (nibble(blocks, block + 2, i) - 8));
  }
  return x;
}

inline std::vector<double> dequantize_q4_1(const std::string& blocks) {
  std::vector<double> x;
  for (std::size_t block = 0; block + 20 <= blocks.size(); block += 20) {
    for (std::size_t i = 0; i < 32; ++i) {
      x.push_back(static_cast<float>(half(blocks, block) * nibble(blocks, block + 4, i) + half(blocks, block + 2)));
    }
  }
  return x;
}

}  // namespace braise::reference
