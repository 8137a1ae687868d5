// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/copy.h"

#include <cmath>
#include <functional>
#include <string>

#include "kernels/core/copy_cpu.h"
#include "kernels/core/error.h"

namespace braise::core {
namespace {

/// Whether the bytes of two contiguous tensors meet. Strided views may interleave without sharing an element, and are
/// not judged.
bool overlap(const ConstTensorView& a, const ConstTensorView& b) {
  if (!a.contiguous() || !b.contiguous()) return false;
  const auto* const first = static_cast<const std::byte*>(a.raw());
  const auto* const second = static_cast<const std::byte*>(b.raw());
  const std::less<> before;
  return before(first, second + b.bytes()) && before(second, first + a.bytes());
}

/// The bits of one element. Errors: core::Error for a value the dtype does not have.
std::uint32_t pattern(Dtype dtype, float value) {
  const auto whole = [&](float low, float end) {
    const float truncated = std::trunc(value);
    if (!(truncated >= low && truncated < end)) {
      throw Error("fill: " + std::to_string(value) + " is no value of " + std::string(name(dtype)));
    }
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(truncated));
  };
  switch (dtype) {
    case Dtype::kFloat32:
      return std::bit_cast<std::uint32_t>(value);
    case Dtype::kBfloat16:
      return to_bfloat16(value).bits;
    case Dtype::kFloat16:
      return to_float16(value).bits;
    case Dtype::kInt8:
      return whole(-128.0f, 128.0f);
    case Dtype::kInt32:
      return whole(-0x1p31f, 0x1p31f);
    case Dtype::kInt4:
      break;
  }
  throw Error("fill: an int4 tensor is not filled, but copied to");
}

}  // namespace

void copy(Stream& stream, const TensorView& destination, const ConstTensorView& source) {
  const bool together =
      destination && source && destination.shape() == source.shape() &&
      (destination.dtype() == source.dtype() || (is_float(destination.dtype()) && is_float(source.dtype())));
  if (!together) throw Error("copy: " + source.text() + " cannot be copied to " + destination.text());
  if (destination.elements() == 0) return;
  require(!overlap(destination, source), "copy", "destination and source overlap");
  require_cpu(stream, "copy");
  cpu::copy(destination, source);
}

void fill(Stream& stream, const TensorView& tensor, float value) {
  require(static_cast<bool>(tensor), "fill", "there is no tensor");
  const std::uint32_t bits = pattern(tensor.dtype(), value);
  if (tensor.elements() == 0) return;
  require_cpu(stream, "fill");
  cpu::fill(tensor, bits);
}

}  // namespace braise::core
