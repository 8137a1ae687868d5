// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace braise::io {

/// SHA-256, fed in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, std::size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }

  /// 64 lower-case hexadecimal digits. Ends the digest: no other call may follow.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// SHA-256 of a text, as 64 lower-case hexadecimal digits.
std::string sha256(std::string_view text);

/// A SHA-256 as it is, for digests of digests.
using Sha256Bytes = std::array<std::byte, 32>;
Sha256Bytes sha256_bytes(std::span<const std::byte> data);

/// 64 lower-case hexadecimal digits, and back: nothing where `hex` is anything else.
std::string to_hex(const Sha256Bytes& digest);
std::optional<Sha256Bytes> sha256_from_hex(std::string_view hex);

/// A file's length and content digest, as sha256sum prints it.
struct FileDigest {
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// Reads the whole file. Errors: core::Error naming the path.
FileDigest digest_file(const std::filesystem::path& path);

/// `digits` random lower-case hexadecimal digits from the operating system: tokens and ids, never numerics.
std::string random_hex(int digits);

}  // namespace braise::io
