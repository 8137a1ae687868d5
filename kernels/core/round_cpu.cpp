// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/round_cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/core/round_cpu.cpp"
#include <hwy/foreach_target.h>
// Highway's order: the list of targets before the first of them.
#include <hwy/highway.h>

#include <algorithm>
#include <array>

#include "kernels/core/vector_map-inl.h"

#include "kernels/core/rows.h"

HWY_BEFORE_NAMESPACE();
namespace braise::core::cpu::HWY_NAMESPACE {

namespace ch = core::HWY_NAMESPACE;

void round_elements(float* x, Dtype dtype, std::size_t count) {
  ch::with_type(dtype, [&](auto element) {
    std::array<decltype(element), 512> rounded;
    for (std::size_t begin = 0; begin < count; begin += rounded.size()) {
      const std::size_t size = std::min(rounded.size(), count - begin);
      ch::convert_float(rounded.data(), x + begin, size);
      ch::convert_float(x + begin, rounded.data(), size);
    }
  });
}

}  // namespace braise::core::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace braise::core::cpu {
namespace {

HWY_EXPORT(round_elements);

}  // namespace

void round_to(const TensorView& x, Dtype dtype) {
  for_pieces_of_rows<1>({Rows("round_to", "x", x)},
                        [&](const std::array<std::int64_t, 1>& offsets, std::int64_t, std::int64_t count) {
                          HWY_DYNAMIC_DISPATCH(round_elements)
                          (x.data<float>() + offsets[0], dtype, static_cast<std::size_t>(count));
                        });
}

}  // namespace braise::core::cpu
#endif
