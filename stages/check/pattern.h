// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace braise::check {

/// Fills bytes with what differs for neighbouring bytes and for unlike numbers (a linear congruential generator).
inline void fill(std::span<std::byte> bytes, std::uint64_t round, std::uint64_t from, std::uint64_t to) {
  std::uint64_t state = (round * 1'000'003 + from) * 1'000'003 + to;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(state >> 56);
  }
}

}  // namespace braise::check
