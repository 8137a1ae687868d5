// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::quant {

/// Most elements of a group in a product of integers: their sum is held in 32 bits.
inline constexpr std::int64_t kMaxProductGroup = 65536;

/// The right operand of products of integers (K x N), laid out as the device multiplies it fastest, with the scales of
/// its groups: a weight is packed once. Owns its memory: a byte for each element, and for each column and group a scale
/// of 4; columns are filled up to a multiple of 64, groups to a multiple of 4.
class PackedInt8 {
 public:
  PackedInt8() = default;

  /// Memory for a K x N matrix in groups of `group` elements along K (the last may be short); the content is not set.
  /// Errors: core::Error for a negative size, or a group below 1 or (where K is) above kMaxProductGroup.
  PackedInt8(core::Arena& arena, std::int64_t depth, std::int64_t columns, std::int64_t group, core::Category category,
             std::string_view owner);

  /// Takes a weight as quantize_groups makes it of outputs x inputs. q: int8 [N, K]; scales: fp32 [N, ceil(K / group)];
  /// rows may be padded. Errors: core::Error for another shape or dtype.
  void pack(core::Stream& stream, const core::ConstTensorView& q, const core::ConstTensorView& scales);

  std::int64_t depth() const { return depth_; }      ///< K
  std::int64_t columns() const { return columns_; }  ///< N
  std::int64_t group() const { return group_; }
  const void* data() const { return buffer_.data(); }

 private:
  std::int64_t depth_ = 0;
  std::int64_t columns_ = 0;
  std::int64_t group_ = 1;
  core::Buffer buffer_;
};

/// The product of operands that are integers with scales by groups, without either as floating-point numbers:
///
///     y[m, n] = sum over groups g, in order, of (scales[m, g] * b.scales[n, g]) * (sum over k in g of x[m, k] * b[k,
///     n])
///
/// x: int8 [.., K], and its scales fp32 [.., ceil(K / b.group())], as quantize_groups makes them with b's group; y:
/// fp32, bf16 or fp16 [.., N], overwritten. Rows may be padded; no two may overlap. The inner sums are exact (int32,
/// then one rounding to fp32 where they are 2^24 or more); the product of the scales is rounded to fp32, and each term
/// is added by one fused multiply-add in fp32; what is stored in bf16 or fp16 is rounded once more. So the bits are the
/// same on every tier, whether it has dot products of int8 (VNNI) or not, for any number of threads, and for a row
/// whatever stands beside it. A scale that is NaN gives NaN. K may be 0 (y is 0). Workspace: x once more, its groups
/// filled up to a multiple of 4, and 4 bytes for each of its scales.
/// Errors: core::Error for shapes or dtypes that do not go together. Source: Dettmers et al., "LLM.int8()", NeurIPS
/// 2022, section 2 (products of rows and columns with scales of their own); groups as in Yao et al., "ZeroQuant".
void int8_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                 const core::ConstTensorView& scales, const PackedInt8& b);

}  // namespace braise::quant
