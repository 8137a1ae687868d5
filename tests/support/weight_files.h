// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace braise::test {

/// The little-endian bytes of a number.
template <class T>
std::string little(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// A safetensors file with that header and data, right or wrong.
inline std::string safetensors_file(std::string_view header, std::string_view data = {}) {
  return little<std::uint64_t>(header.size()) + std::string(header) + std::string(data);
}

/// Writes GGUF files piece by piece, right or wrong ones.
class GgufBuilder {
 public:
  explicit GgufBuilder(std::uint32_t version = 3, std::uint64_t alignment = 32)
      : version_(version), alignment_(alignment) {}

  static std::string text(std::string_view value) { return little<std::uint64_t>(value.size()) + std::string(value); }

  /// A value of metadata by the number of its type and its bytes.
  GgufBuilder& value(std::string_view key, std::uint32_t type, std::string_view bytes) {
    ++values_;
    metadata_ += text(key) + little(type) + std::string(bytes);
    return *this;
  }

  static std::string list(std::uint32_t type, std::uint64_t count, std::string_view bytes) {
    return little(type) + little(count) + std::string(bytes);
  }

  /// A tensor that follows the one before it, aligned. `extents` innermost first, as the file has them.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                      std::string_view bytes) {
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_, '\0');
    const std::uint64_t offset = data_.size();
    data_ += bytes;
    return entry(name, extents, type, offset);
  }

  /// Only what describes a tensor.
  GgufBuilder& entry(std::string_view name, const std::vector<std::uint64_t>& extents, std::uint32_t type,
                     std::uint64_t offset) {
    ++tensors_;
    entries_ += text(name) + little(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) entries_ += little(extent);
    entries_ += little(type) + little(offset);
    return *this;
  }

  GgufBuilder& data(std::string_view bytes) {
    data_ += bytes;
    return *this;
  }

  std::string bytes() const { return bytes(tensors_, values_); }

  /// With other counts than there are.
  std::string bytes(std::uint64_t tensors, std::uint64_t values) const {
    std::string file = "GGUF" + little(version_) + little(tensors) + little(values) + metadata_ + entries_;
    if (data_.empty()) return file;
    file.resize((file.size() + alignment_ - 1) / alignment_ * alignment_, '\0');
    return file + data_;
  }

 private:
  std::uint32_t version_;
  std::uint64_t alignment_;
  std::uint64_t tensors_ = 0;
  std::uint64_t values_ = 0;
  std::string metadata_, entries_, data_;
};

}  // namespace braise::test
