// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/tf_record.h"

#include <nmmintrin.h>

#include <bit>
#include <cstring>

namespace braise::telemetry {
namespace {

constexpr std::size_t kHead = 12;  ///< length and its CRC
constexpr std::size_t kTail = 4;   ///< the content's CRC

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

template <class T>
void put(std::string& text, T value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T get(std::string_view bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint64_t crc = 0xffffffffu;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) crc = _mm_crc32_u64(crc, get<std::uint64_t>(bytes, i));
  auto rest = static_cast<std::uint32_t>(crc);
  for (; i < bytes.size(); ++i) rest = _mm_crc32_u8(rest, static_cast<unsigned char>(bytes[i]));
  return ~rest;
}

std::string tf_record(std::string_view content) {
  std::string record;
  record.reserve(kHead + content.size() + kTail);
  put(record, static_cast<std::uint64_t>(content.size()));
  put(record, masked_crc(record));
  record += content;
  put(record, masked_crc(content));
  return record;
}

std::optional<std::string_view> read_tf_record(std::string_view bytes, std::size_t& offset) {
  const std::string_view rest = bytes.substr(offset);
  if (rest.size() < kHead || get<std::uint32_t>(rest, 8) != masked_crc(rest.substr(0, 8))) return std::nullopt;
  const auto length = get<std::uint64_t>(rest, 0);
  if (rest.size() < kHead + kTail || length > rest.size() - kHead - kTail) return std::nullopt;
  const std::string_view content = rest.substr(kHead, length);
  if (get<std::uint32_t>(rest, kHead + length) != masked_crc(content)) return std::nullopt;
  offset += kHead + length + kTail;
  return content;
}

}  // namespace braise::telemetry
