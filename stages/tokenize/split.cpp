// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/split.h"

#include <cmath>

namespace braise::tokenize {

std::uint64_t philox(std::uint64_t key, std::uint64_t counter) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32), c2 = 0,
                c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c0 | std::uint64_t{c1} << 32;
}

bool is_validation_document(std::int64_t seed, std::uint64_t index, double fraction) {
  // The upper 53 bits as a number in [0, 1): exact in a double.
  const double draw = static_cast<double>(philox(static_cast<std::uint64_t>(seed), index) >> 11) * 0x1p-53;
  return draw < fraction;
}

std::size_t tail_begin(std::string_view document, double fraction) {
  const std::size_t size = document.size();
  const std::size_t cut = size - static_cast<std::size_t>(std::floor(static_cast<double>(size) * fraction));
  if (cut >= size) return size;
  if (cut > 0 && document[cut - 1] == '\n') return cut;
  const std::size_t newline = document.find('\n', cut);
  if (newline != std::string_view::npos && newline + 1 < size) return newline + 1;
  std::size_t character = cut;
  // A character has at most three bytes after its first; more are not UTF-8, and cut anywhere.
  while (character < size && character < cut + 3 && (static_cast<unsigned char>(document[character]) & 0xC0) == 0x80) {
    ++character;
  }
  return character;
}

}  // namespace braise::tokenize
