// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/shape.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace braise::core {

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  if (extents.size() > kMaxRank) {
    throw Error("a tensor has at most " + std::to_string(kMaxRank) + " dimensions, not " +
                std::to_string(extents.size()));
  }
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  std::int64_t product = 1;  // of the extents that are not 0, so that a 0 hides no overflow
  for (const std::int64_t extent : extents) {
    if (extent < 0) throw Error("a tensor's extent must not be negative: " + std::to_string(extent));
    if (extent > 0 && product > kMost / extent) throw Error("a tensor of more than 2^62 elements");
    if (extent > 0) product *= extent;
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= (*this)[i];
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(extents(), other.extents());
}

std::string Shape::text() const {
  if (rank_ == 0) return "scalar";
  std::string text = std::to_string(extents_[0]);
  for (int i = 1; i < rank_; ++i) text += " x " + std::to_string((*this)[i]);
  return text;
}

}  // namespace braise::core
