// SPDX-License-Identifier: Apache-2.0
#include "kernels/quant/int8_matmul.h"

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "kernels/quant/int8_matmul_cpu.h"

namespace braise::quant {
namespace {

constexpr const char* kName = "int8_matmul";
constexpr const char* kPack = "PackedInt8::pack";

}  // namespace

PackedInt8::PackedInt8(core::Arena& arena, std::int64_t depth, std::int64_t columns, std::int64_t group,
                       core::Category category, std::string_view owner)
    : depth_(depth), columns_(columns), group_(group) {
  core::require(depth >= 0 && columns >= 0, "PackedInt8", "a size is negative");
  core::require(group >= 1, "PackedInt8", "a group has at least one element");
  core::require(std::min(group, depth) <= kMaxProductGroup, "PackedInt8",
                "a group has at most 65536 elements, as its sum is held in 32 bits");
  buffer_ = arena.allocate(cpu::packed_bytes(cpu::Groups(depth, group), columns), category, owner);
}

void PackedInt8::pack(core::Stream& stream, const core::ConstTensorView& q, const core::ConstTensorView& scales) {
  const cpu::Groups groups(depth_, group_);
  core::require_tensor(kPack, "q", q, core::Dtype::kInt8, core::Shape{columns_, depth_});
  core::require_tensor(kPack, "scales", scales, core::Dtype::kFloat32, core::Shape{columns_, groups.count});
  core::require(q.rows_contiguous() && scales.rows_contiguous(), kPack, "the last dimension must be contiguous");
  core::require_cpu(stream, kPack);
  cpu::pack(buffer_.data(), q, scales, groups);
}

void int8_matmul(core::Stream& stream, const core::TensorView& y, const core::ConstTensorView& x,
                 const core::ConstTensorView& scales, const PackedInt8& b) {
  const cpu::Groups groups(b.depth(), b.group());
  core::require(x && x.rank() >= 1 && x.dtype() == core::Dtype::kInt8 && x.extent(-1) == b.depth(), kName,
                "x must be int8 [.., K]");
  core::require(y && core::is_float(y.dtype()) && y.rank() == x.rank() && y.extent(-1) == b.columns(), kName,
                "y must be of a floating-point dtype and [.., N]");
  core::require(scales && scales.dtype() == core::Dtype::kFloat32 && scales.rank() == x.rank() &&
                    scales.extent(-1) == groups.count,
                kName, "scales must be fp32 [.., groups of K]");
  for (int i = 0; i + 1 < x.rank(); ++i) {
    core::require(x.extent(i) == y.extent(i) && x.extent(i) == scales.extent(i), kName,
                  "x, its scales and y differ in rows");
  }
  core::require(x.rows_contiguous() && y.rows_contiguous() && scales.rows_contiguous(), kName,
                "the last dimension must be contiguous");
  if (y.elements() == 0) return;
  core::require_cpu(stream, kName);
  cpu::int8_matmul(stream, y.as_rows(), x.as_rows(), scales.as_rows(), b.data(), groups, core::has_vnni());
}

}  // namespace braise::quant
