// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/core/philox.h"

namespace braise::core {

/// What random numbers are drawn for. Numbers of different purposes are independent. The values are part of the
/// reproducible result: never renumber.
enum class Purpose : std::uint32_t {
  kInitialisation = 1,  ///< stream: hash of the parameter's name; element: row-major index in the whole tensor
  kDropout = 2,         ///< stream: step, sample, site; element: index in that sample's tensor
  kData = 3,            ///< stream: epoch; element: sample
  kSampling = 4,        ///< stream: request; element: token
  kSweep = 5,           ///< stream: hash of the parameter's path; element: sample
};

/// An endless sequence of random numbers that any device can read at any place: a pure function of (seed, purpose,
/// stream, element), never of rank, thread or order. `stream` is the logical position as far as it is the same for all
/// elements (step, sample, layer ...), three words of 64 bits.
class RandomStream {
 public:
  constexpr RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t first = 0, std::uint64_t second = 0,
                         std::uint64_t third = 0) {
    // Each word is absorbed by one application of the bijection, so distinct positions meet only by a 64-bit collision.
    std::array<std::uint32_t, 2> key{low(seed), high(seed)};
    const auto absorb = [&](std::uint64_t word, std::uint32_t place) {
      const auto mixed = philox({low(word), high(word), static_cast<std::uint32_t>(purpose), place}, key);
      key = {mixed[0], mixed[1]};
    };
    absorb(first, 1);
    absorb(second, 2);
    absorb(third, 3);
    key_ = key;
  }

  /// Words 4 i to 4 i + 3 of the sequence.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t i) const { return philox({low(i), high(i), 0, 0}, key_); }

  /// Word i of the sequence: element i of the tensor it is drawn for.
  constexpr std::uint32_t word(std::uint64_t i) const { return block(i / 4)[i % 4]; }

  constexpr std::array<std::uint32_t, 2> key() const { return key_; }

 private:
  static constexpr std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
  static constexpr std::uint32_t high(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }
  std::array<std::uint32_t, 2> key_{};
};

/// A uniform number in [0, 1): a multiple of 2^-24, exact.
constexpr float uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

/// The stream number of a named thing: the first 64 bits, little-endian, of a fixed hash (FNV-1a) of its name.
constexpr std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace braise::core
