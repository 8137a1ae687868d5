// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "kernels/core/dtype.h"
#include "kernels/core/half.h"

namespace braise::tools {

/// Element `index` of bytes of a dtype (not int4), as a number.
inline double value_at(core::Dtype dtype, std::span<const std::byte> bytes, std::size_t index) {
  const auto load = [&]<class T>(T value) {
    std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
    return value;
  };
  switch (dtype) {
    case core::Dtype::kFloat32:
      return load(float{});
    case core::Dtype::kBfloat16:
      return core::to_float(load(core::Bfloat16{}));
    case core::Dtype::kFloat16:
      return core::to_float(load(core::Float16{}));
    case core::Dtype::kInt8:
      return load(std::int8_t{});
    case core::Dtype::kInt32:
      return load(std::int32_t{});
    case core::Dtype::kInt4:
      break;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// What a person wants to know of a tensor's numbers.
class Statistics {
 public:
  void add(double value) {
    if (std::isnan(value)) {
      ++nan_;
    } else if (std::isinf(value)) {
      ++infinite_;
    } else {
      // Welford's way: no cancellation, whatever the mean.
      ++finite_;
      const double difference = value - mean_;
      mean_ += difference / static_cast<double>(finite_);
      squares_ += difference * (value - mean_);
      min_ = std::fmin(min_, value);
      max_ = std::fmax(max_, value);
    }
  }
  std::uint64_t finite() const { return finite_; }
  std::uint64_t nan() const { return nan_; }
  std::uint64_t infinite() const { return infinite_; }
  // Of the finite ones, if any.
  double min() const { return min_; }
  double max() const { return max_; }
  double mean() const { return mean_; }
  double deviation() const { return std::sqrt(squares_ / static_cast<double>(finite_)); }

 private:
  std::uint64_t finite_ = 0, nan_ = 0, infinite_ = 0;
  double min_ = std::numeric_limits<double>::infinity(), max_ = -std::numeric_limits<double>::infinity();
  double mean_ = 0, squares_ = 0;
};

}  // namespace braise::tools
