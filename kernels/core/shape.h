// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace braise::core {

inline constexpr int kMaxRank = 6;

/// The extents of a tensor, outermost first; at most kMaxRank of them, none negative. Rank 0 is a scalar: one element.
class Shape {
 public:
  Shape() = default;

  /// Errors: core::Error for more than kMaxRank extents, a negative one, or a product that does not fit 62 bits.
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int dimension) const { return extents_[static_cast<std::size_t>(dimension)]; }
  std::int64_t elements() const;
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }

  bool operator==(const Shape& other) const;

  /// "4 x 1024 x 768"; "scalar" for rank 0.
  std::string text() const;

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace braise::core
