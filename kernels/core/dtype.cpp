// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/dtype.h"

#include <array>
#include <utility>

namespace braise::core {
namespace {

constexpr std::array kNames = {
    std::pair{Dtype::kFloat32, std::string_view("fp32")}, std::pair{Dtype::kBfloat16, std::string_view("bf16")},
    std::pair{Dtype::kFloat16, std::string_view("fp16")}, std::pair{Dtype::kInt8, std::string_view("int8")},
    std::pair{Dtype::kInt4, std::string_view("int4")},    std::pair{Dtype::kInt32, std::string_view("int32")},
};

}  // namespace

std::string_view name(Dtype dtype) {
  for (const auto& [candidate, text] : kNames) {
    if (candidate == dtype) return text;
  }
  return "unknown dtype";
}

std::optional<Dtype> dtype_named(std::string_view name) {
  for (const auto& [candidate, text] : kNames) {
    if (text == name) return candidate;
  }
  return std::nullopt;
}

}  // namespace braise::core
