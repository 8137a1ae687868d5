// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tensors.h"

#define CATCH_CONFIG_EXTERNAL_INTERFACES  // for the listener
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/core/parallel.h"
#include "kernels/core/random.h"
#include "kernels/core/tier.h"

namespace braise::test {
namespace {

constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kPoison{0xff};
constexpr std::int64_t kRowPadding = 3;

std::int64_t row_length(const core::Shape& shape) {
  return shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
}

/// Runs the whole program on the tier that BRAISE_TEST_TIER names; exits with 77 (skipped) where the processor lacks
/// it.
struct TierListener : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testRunStarting(const Catch::TestRunInfo& info) override {
    TestEventListenerBase::testRunStarting(info);
    const char* wanted = std::getenv("BRAISE_TEST_TIER");
    if (wanted == nullptr) return;
    const auto tier = core::tier_named(wanted);
    if (!tier) {
      std::fprintf(stderr, "BRAISE_TEST_TIER names no tier: %s\n", wanted);
      std::exit(2);
    }
    if (*tier > core::detected_tier()) {
      std::fprintf(stderr, "skipped: this processor lacks the tier %s\n", wanted);
      std::exit(77);
    }
    core::pin_tier(*tier);
  }
};
CATCH_REGISTER_LISTENER(TierListener)

}  // namespace

TestTensor::TestTensor(core::Dtype dtype, const core::Shape& shape, Layout layout) {
  const bool packed = dtype == core::Dtype::kInt4;
  const std::int64_t columns = row_length(shape);
  const std::int64_t pitch = layout == Layout::kPaddedRows ? columns + kRowPadding : columns;
  const std::int64_t rows = columns == 0 ? 0 : shape.elements() / columns;
  const auto size = packed ? static_cast<std::size_t>(rows * ((columns + 1) / 2))
                           : static_cast<std::size_t>(rows * pitch) * static_cast<std::size_t>(core::bits(dtype) / 8);
  memory_.assign(size + 2 * kGuardBytes, kPoison);
  std::vector<std::int64_t> strides(static_cast<std::size_t>(shape.rank()));
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[static_cast<std::size_t>(i)] = stride;
    stride *= i == shape.rank() - 1 ? pitch : std::max<std::int64_t>(shape[i], 1);
  }
  void* const data = memory_.data() + kGuardBytes;
  view_ = layout == Layout::kContiguous ? core::TensorView(data, dtype, shape)
                                        : core::TensorView(data, dtype, shape, strides);
}

TestTensor::TestTensor(core::Dtype dtype, const core::Shape& shape, const std::vector<double>& values, Layout layout)
    : TestTensor(dtype, shape, layout) {
  set(values);
}

std::size_t TestTensor::offset_of(std::int64_t element) const {
  std::int64_t offset = 0;
  for (int i = view_.rank() - 1; i >= 0; --i) {
    offset += element % view_.extent(i) * view_.stride(i);
    element /= view_.extent(i);
  }
  return static_cast<std::size_t>(offset);
}

std::vector<double> TestTensor::values() const {
  std::vector<double> values(static_cast<std::size_t>(view_.elements()));
  const auto columns = static_cast<std::size_t>(row_length(view_.shape()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t at = view_.dtype() == core::Dtype::kInt4 ? 0 : offset_of(static_cast<std::int64_t>(i));
    switch (view_.dtype()) {
      case core::Dtype::kFloat32:
        values[i] = view_.data<float>()[at];
        break;
      case core::Dtype::kBfloat16:
        values[i] = core::to_float(view_.data<core::Bfloat16>()[at]);
        break;
      case core::Dtype::kFloat16:
        values[i] = core::to_float(view_.data<core::Float16>()[at]);
        break;
      case core::Dtype::kInt8:
        values[i] = view_.data<std::int8_t>()[at];
        break;
      case core::Dtype::kInt32:
        values[i] = view_.data<std::int32_t>()[at];
        break;
      case core::Dtype::kInt4: {
        const auto byte =
            static_cast<const std::uint8_t*>(view_.raw())[i / columns * ((columns + 1) / 2) + i % columns / 2];
        const int nibble = i % columns % 2 == 0 ? byte & 15 : byte >> 4;
        values[i] = nibble >= 8 ? nibble - 16 : nibble;
        break;
      }
    }
  }
  return values;
}

void TestTensor::set(const std::vector<double>& values) {
  REQUIRE(static_cast<std::int64_t>(values.size()) == view_.elements());
  const auto columns = static_cast<std::size_t>(row_length(view_.shape()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t at = view_.dtype() == core::Dtype::kInt4 ? 0 : offset_of(static_cast<std::int64_t>(i));
    const double value = rounded(values[i], view_.dtype());
    switch (view_.dtype()) {
      case core::Dtype::kFloat32:
        view_.data<float>()[at] = static_cast<float>(value);
        break;
      case core::Dtype::kBfloat16:
        view_.data<core::Bfloat16>()[at] = core::to_bfloat16(static_cast<float>(value));
        break;
      case core::Dtype::kFloat16:
        view_.data<core::Float16>()[at] = core::to_float16(static_cast<float>(value));
        break;
      case core::Dtype::kInt8:
        view_.data<std::int8_t>()[at] = static_cast<std::int8_t>(value);
        break;
      case core::Dtype::kInt32:
        view_.data<std::int32_t>()[at] = static_cast<std::int32_t>(value);
        break;
      case core::Dtype::kInt4: {
        auto& byte = static_cast<std::uint8_t*>(view_.raw())[i / columns * ((columns + 1) / 2) + i % columns / 2];
        const auto nibble = static_cast<unsigned>(static_cast<int>(value) & 15);
        byte = static_cast<std::uint8_t>(i % columns % 2 == 0 ? (byte & 0xf0u) | nibble : (byte & 0x0fu) | nibble << 4);
        break;
      }
    }
  }
}

bool TestTensor::intact() const {
  std::vector<bool> owned(memory_.size(), false);
  if (view_.dtype() == core::Dtype::kInt4) {
    std::fill_n(owned.begin() + kGuardBytes, view_.bytes(), true);
  } else {
    const auto size = static_cast<std::size_t>(core::bits(view_.dtype()) / 8);
    for (std::int64_t i = 0; i < view_.elements(); ++i) {
      for (std::size_t k = 0; k < size; ++k) owned[kGuardBytes + offset_of(i) * size + k] = true;
    }
  }
  for (std::size_t i = 0; i < memory_.size(); ++i) {
    if (!owned[i] && memory_[i] != kPoison) return false;
  }
  return true;
}

std::string TestTensor::bytes() const {
  const auto* const start = reinterpret_cast<const char*>(memory_.data()) + kGuardBytes;
  return std::string(start, memory_.size() - 2 * kGuardBytes);
}

std::vector<double> random_values(const core::Shape& shape, core::Dtype dtype, std::uint64_t seed, double scale) {
  const core::RandomStream random(seed, core::Purpose::kData, 0x7e57);
  std::vector<double> values(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = rounded((2.0 * core::uniform(random.word(i)) - 1.0) * scale, dtype);
  }
  return values;
}

double rounded(double value, core::Dtype dtype) {
  switch (dtype) {
    case core::Dtype::kFloat32:
      return static_cast<float>(value);
    case core::Dtype::kBfloat16:
    case core::Dtype::kFloat16: {
      // Round to odd on the way through fp32, so that the two roundings give what one would.
      float near = static_cast<float>(value);
      if (std::isfinite(near) && near != value) {
        const float away = std::nextafter(
            near, value > near ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity());
        if ((std::bit_cast<std::uint32_t>(near) & 1u) == 0) near = away;
      }
      return dtype == core::Dtype::kBfloat16 ? core::to_float(core::to_bfloat16(near))
                                             : core::to_float(core::to_float16(near));
    }
    case core::Dtype::kInt8:
      return std::clamp(std::nearbyint(value), -128.0, 127.0);
    case core::Dtype::kInt4:
      return std::clamp(std::nearbyint(value), -8.0, 7.0);
    case core::Dtype::kInt32:
      return std::nearbyint(value);
  }
  return value;
}

double unit_roundoff(core::Dtype dtype) {
  return dtype == core::Dtype::kFloat32 ? 0x1p-24 : dtype == core::Dtype::kBfloat16 ? 0x1p-8 : 0x1p-11;
}

double rounding_error(double value, core::Dtype dtype) {
  const double least = dtype == core::Dtype::kFloat16 ? 0x1p-25 : dtype == core::Dtype::kBfloat16 ? 0x1p-134 : 0x1p-150;
  return std::abs(value) * unit_roundoff(dtype) + least;
}

void check_close(const std::vector<double>& actual, const std::vector<double>& expected,
                 const std::function<double(std::size_t)>& tolerance, const std::string& what) {
  REQUIRE(actual.size() == expected.size());
  std::size_t worst = 0;
  double worst_ratio = -1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    if (actual[i] == expected[i]) continue;
    const double error = std::abs(actual[i] - expected[i]);
    const double allowed = tolerance(i);
    const double ratio = allowed > 0 && !std::isnan(error) ? error / allowed : std::numeric_limits<double>::infinity();
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      worst = i;
    }
  }
  if (worst_ratio > 1) {
    FAIL_CHECK(what << ": element " << worst << " of " << actual.size() << " is " << actual[worst] << ", expected "
                    << expected[worst] << " within " << tolerance(worst));
  } else {
    SUCCEED();
  }
}

void check_close(const std::vector<double>& actual, const std::vector<double>& expected, double relative,
                 double absolute, const std::string& what) {
  check_close(
      actual, expected, [&](std::size_t i) { return relative * std::abs(expected[i]) + absolute; }, what);
}

void with_threads(const std::function<void(int)>& work) {
  // ThreadSanitizer does not see how libgomp's threads wait for each other.
#if defined(_OPENMP) && !defined(__SANITIZE_THREAD__)
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3, 8}) {
    omp_set_num_threads(threads);
    work(threads);
  }
  omp_set_num_threads(before);
#else
  work(1);
#endif
}

}  // namespace braise::test
