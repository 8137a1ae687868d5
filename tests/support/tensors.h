// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/ledger.h"
#include "kernels/core/tensor.h"

namespace braise::test {

/// A CPU stream with a ledger and an arena of its own.
class Bench {
 public:
  Bench() : arena_(core::kCpu, core::Space::kDevice, ledger_), stream_(core::make_stream(arena_)) {}
  core::Stream& stream() { return *stream_; }
  core::Arena& arena() { return arena_; }
  core::MemoryLedger& ledger() { return ledger_; }

 private:
  core::MemoryLedger ledger_;
  core::Arena arena_;
  std::unique_ptr<core::Stream> stream_;
};

/// How a TestTensor lies in memory.
enum class Layout {
  kContiguous,
  kPaddedRows,  ///< three more elements between rows, so that the last dimension stays contiguous
};

/// A tensor of a test: its own memory, poisoned (every float a NaN, every integer 0xff...), with a guard on both sides
/// and between padded rows that `intact` checks.
class TestTensor {
 public:
  TestTensor(core::Dtype dtype, const core::Shape& shape, Layout layout = Layout::kContiguous);

  /// The same with values, rounded to the dtype.
  TestTensor(core::Dtype dtype, const core::Shape& shape, const std::vector<double>& values,
             Layout layout = Layout::kContiguous);

  core::TensorView view() const { return view_; }

  /// Elements in row-major order.
  std::vector<double> values() const;
  void set(const std::vector<double>& values);

  /// Whether the bytes around the elements are what they were.
  bool intact() const;

  /// The bytes of the elements, for comparisons to the bit.
  std::string bytes() const;

 private:
  std::size_t offset_of(std::int64_t element) const;
  std::vector<std::byte> memory_;
  core::TensorView view_;
};

/// Uniform values in [-scale, scale), rounded to the dtype, a function of the seed.
std::vector<double> random_values(const core::Shape& shape, core::Dtype dtype, std::uint64_t seed, double scale = 1.0);

/// Rounds to the nearest value of the dtype (ties to even).
double rounded(double value, core::Dtype dtype);

/// The largest relative error of one rounding to the dtype: 2^-24, 2^-8, 2^-11.
double unit_roundoff(core::Dtype dtype);

/// The largest error of rounding a value to the dtype, where the result is subnormal too.
double rounding_error(double value, core::Dtype dtype);

/// CHECKs that |actual[i] - expected[i]| <= tolerance(i) for all i, or both are NaN, or the same infinity. Reports the
/// worst element.
void check_close(const std::vector<double>& actual, const std::vector<double>& expected,
                 const std::function<double(std::size_t)>& tolerance, const std::string& what = "");

/// The same with relative * |expected[i]| + absolute.
void check_close(const std::vector<double>& actual, const std::vector<double>& expected, double relative,
                 double absolute, const std::string& what = "");

/// Runs `work` with each OpenMP thread count of 1, 2, 3 and 8.
void with_threads(const std::function<void(int)>& work);

}  // namespace braise::test
