// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/weights/encoding.h"

#include <array>
#include <string>

#include "kernels/core/error.h"

namespace braise::weights {
namespace {

struct Properties {
  std::string_view name;
  std::int64_t bytes;  // of an element; 0 where elements come in blocks
  std::optional<core::Dtype> dtype;
  bool floating;
};

constexpr std::array<Properties, 18> kProperties = {{
    {"BOOL", 1, std::nullopt, false},
    {"U8", 1, std::nullopt, false},
    {"I8", 1, core::Dtype::kInt8, false},
    {"F8_E5M2", 1, std::nullopt, true},
    {"F8_E4M3", 1, std::nullopt, true},
    {"I16", 2, std::nullopt, false},
    {"U16", 2, std::nullopt, false},
    {"F16", 2, core::Dtype::kFloat16, true},
    {"BF16", 2, core::Dtype::kBfloat16, true},
    {"I32", 4, core::Dtype::kInt32, false},
    {"U32", 4, std::nullopt, false},
    {"F32", 4, core::Dtype::kFloat32, true},
    {"F64", 8, std::nullopt, true},
    {"I64", 8, std::nullopt, false},
    {"U64", 8, std::nullopt, false},
    {"Q8_0", 0, std::nullopt, true},
    {"Q4_0", 0, std::nullopt, true},
    {"Q4_1", 0, std::nullopt, true},
}};
static_assert(kProperties.size() == static_cast<std::size_t>(Encoding::kOther));

const Properties& properties(Encoding encoding) {
  return kProperties.at(static_cast<std::size_t>(encoding));
}

}  // namespace

std::string_view name(Encoding encoding) {
  return properties(encoding).name;
}

std::optional<Encoding> safetensors_encoding(std::string_view name) {
  for (std::size_t i = 0; i < kProperties.size(); ++i) {
    if (kProperties[i].name == name && kProperties[i].bytes > 0) return static_cast<Encoding>(i);
  }
  return std::nullopt;
}

std::int64_t element_bytes(Encoding encoding) {
  return properties(encoding).bytes;
}

std::optional<core::Dtype> same_dtype(Encoding encoding) {
  return encoding == Encoding::kOther ? std::nullopt : properties(encoding).dtype;
}

Encoding encoding_of(core::Dtype dtype) {
  for (std::size_t i = 0; i < kProperties.size(); ++i) {
    if (kProperties[i].dtype == dtype) return static_cast<Encoding>(i);
  }
  throw core::Error("weight files cannot hold " + std::string(core::name(dtype)));
}

bool is_float(Encoding encoding) {
  return encoding != Encoding::kOther && properties(encoding).floating;
}

bool is_integer(Encoding encoding) {
  return encoding != Encoding::kOther && !properties(encoding).floating;
}

}  // namespace braise::weights
