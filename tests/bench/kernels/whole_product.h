// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "kernels/core/dtype.h"

namespace braise::bench {

/// oneDNN's own product of [rows x depth] and [depth x columns]: weights in the layout it likes best, all threads in
/// one primitive. Of int8: the left operand of unsigned bytes, as its fastest, and sums in int32.
class WholeProduct {
 public:
  WholeProduct(core::Dtype dtype, std::int64_t rows, std::int64_t depth, std::int64_t columns)
      : engine_(dnnl::engine::kind::cpu, 0) {
    using memory = dnnl::memory;
    using type = memory::data_type;
    const bool integers = dtype == core::Dtype::kInt8;
    const type number = dtype == core::Dtype::kFloat32 ? type::f32 : type::bf16;
    const dnnl::matmul::primitive_desc descriptor(
        dnnl::matmul::desc(memory::desc({rows, depth}, integers ? type::u8 : number, memory::format_tag::ab),
                           memory::desc({depth, columns}, integers ? type::s8 : number, memory::format_tag::any),
                           memory::desc({rows, columns}, integers ? type::s32 : number, memory::format_tag::ab)),
        engine_);
    product_ = dnnl::matmul(descriptor);
    for (const auto& [argument, desc] : {std::pair{DNNL_ARG_SRC, descriptor.src_desc()},
                                         {DNNL_ARG_WEIGHTS, descriptor.weights_desc()},
                                         {DNNL_ARG_DST, descriptor.dst_desc()}}) {
      memory one(desc, engine_);
      auto* const bytes = static_cast<std::uint16_t*>(one.get_data_handle());
      for (std::size_t i = 0; i < desc.get_size() / 2; ++i)
        bytes[i] = static_cast<std::uint16_t>(0x3f00 + i * 7919 % 256);
      arguments_.emplace(argument, one);
    }
    stream_ = dnnl::stream(engine_);
  }
  void run() {
    product_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

}  // namespace braise::bench
