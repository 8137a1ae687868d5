// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "stages/shared/weights/weights.h"

namespace braise::weights {

/// A list in a GGUF file's metadata: elements of one type, as the file has it, which may be lists again.
struct GgufList {
  std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>, std::vector<float>,
               std::vector<bool>, std::vector<std::string>, std::vector<GgufList>, std::vector<std::uint64_t>,
               std::vector<std::int64_t>, std::vector<double>>
      elements;
};

/// A value of a GGUF file's metadata; the alternatives are in the order of their numbers in the file. Text is bytes:
/// the format asks for UTF-8, but tokens break it.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t,
                               float, bool, std::string, GgufList, std::uint64_t, std::int64_t, double>;

/// The metadata of a GGUF file, by key. Errors: core::Error naming the file, the key, what it is and what it should be.
class GgufMetadata {
 public:
  GgufMetadata(std::filesystem::path path, std::map<std::string, GgufValue, std::less<>> values)
      : path_(std::move(path)), values_(std::move(values)) {}

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }

  bool has(std::string_view key) const { return values_.contains(key); }

  /// An integer of any width. Errors: also for one that does not fit.
  std::int64_t integer(std::string_view key) const;

  /// A number of any type, rounded to fp64.
  double number(std::string_view key) const;

  bool boolean(std::string_view key) const;
  const std::string& text(std::string_view key) const;

  /// A list of that very type.
  template <class T>
  const std::vector<T>& list(std::string_view key) const {
    const GgufValue& value = at(key);
    const auto* const found = std::get_if<GgufList>(&value);
    const auto* const elements = found == nullptr ? nullptr : std::get_if<std::vector<T>>(&found->elements);
    if (elements == nullptr) refuse_type(key, value, GgufList{std::vector<T>()});
    return *elements;
  }

 private:
  const GgufValue& at(std::string_view key) const;
  [[noreturn]] void refuse(std::string_view key, const GgufValue& found, const std::string& wanted) const;
  [[noreturn]] void refuse_type(std::string_view key, const GgufValue& found, const GgufValue& wanted) const;

  std::filesystem::path path_;
  std::map<std::string, GgufValue, std::less<>> values_;
};

/// What a GGUF file holds.
struct Gguf {
  Weights weights;  ///< shapes in row-major order, the reverse of the file's
  GgufMetadata metadata;
};

/// Opens a GGUF file of version 2 or 3, little-endian. Tensors of types that are not supported are listed, and refused
/// when they are read. A type that is not known at all has a length that is not known: its bytes are those up to the
/// next tensor, at least a bit for each element. Memory for metadata and names is at most a small multiple of the
/// file's length. Errors: core::Error naming the file, the key or tensor, what is wrong and what would be right.
/// Source: ggml, docs/gguf.md.
Gguf open_gguf(const std::filesystem::path& path);

}  // namespace braise::weights
