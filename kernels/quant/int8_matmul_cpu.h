// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace braise::quant::cpu {

/// How K is cut: into groups of whole quads, which are what one dot product of bytes takes.
struct Groups {
  Groups(std::int64_t all, std::int64_t of)
      : depth(all),
        group(std::clamp<std::int64_t>(of, 1, std::max<std::int64_t>(all, 1))),
        count((all + group - 1) / group),
        quads((group + 3) / 4),
        last_quads(count == 0 ? 0 : (all - (count - 1) * group + 3) / 4) {}

  std::int64_t all_quads() const { return count == 0 ? 0 : (count - 1) * quads + last_quads; }

  std::int64_t depth;
  std::int64_t group;
  std::int64_t count;
  std::int64_t quads;       ///< of a group
  std::int64_t last_quads;  ///< of the last one
};

/// Columns of b that lie side by side: a panel is, for each quad, four bytes of each of them, then for each group a
/// scale of each. Bytes are 128 more than the integers.
inline constexpr std::int64_t kPanel = 64;

std::int64_t panel_bytes(const Groups& groups);
std::int64_t packed_bytes(const Groups& groups, std::int64_t columns);

/// q: N x K, scales: N x groups.
void pack(void* packed, const core::ConstTensorView& q, const core::ConstTensorView& scales, const Groups& groups);

/// The operation of int8_matmul.h for checked arguments of two dimensions, with elements. `vnni`: with its dot
/// products, which core::has_vnni must allow.
void int8_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                 const core::ConstTensorView& scales, const void* packed, const Groups& groups, bool vnni);

/// Some rows times a panel.
struct PanelProduct {
  const std::int8_t* x = nullptr;  ///< in quads, rows `x_stride` bytes apart
  std::int64_t x_stride = 0;
  const std::int32_t* excess = nullptr;  ///< 128 times the sum of a row's group: rows groups.count apart
  const float* scales = nullptr;         ///< rows `scale_stride` apart
  std::int64_t scale_stride = 0;
  const void* panel = nullptr;
  const Groups* groups = nullptr;
  void* y = nullptr;
  core::Dtype y_dtype = core::Dtype::kFloat32;
  std::int64_t y_stride = 0;  ///< in elements
  std::int64_t rows = 0;
  std::int64_t columns = 0;  ///< of the panel, to be stored
};

}  // namespace braise::quant::cpu
