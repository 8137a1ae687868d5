// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/core/device.h"
#include "kernels/core/dtype.h"
#include "kernels/core/half.h"
#include "kernels/core/shape.h"

namespace braise::core {

/// A tensor in someone else's memory: address, dtype, shape, strides (in elements), device. It owns nothing; the memory
/// must outlive it. Elements of a view never overlap, so strides are positive; int4 is contiguous always.
class ConstTensorView {
 public:
  ConstTensorView() = default;

  /// A contiguous view. `data` may be null for a tensor without elements.
  ConstTensorView(const void* data, Dtype dtype, const Shape& shape, Device device = kCpu);

  /// A view with strides, in elements, one per dimension. Errors: core::Error for int4.
  ConstTensorView(const void* data, Dtype dtype, const Shape& shape, std::span<const std::int64_t> strides,
                  Device device = kCpu);

  /// Whether there is a tensor at all: an optional argument of an operation is a default-made view.
  explicit operator bool() const { return present_; }

  Dtype dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  /// Negative dimensions count from the last: -1 is the innermost.
  std::int64_t extent(int dimension) const { return shape_[counted(dimension)]; }
  /// In elements; as extent.
  std::int64_t stride(int dimension) const { return strides_[static_cast<std::size_t>(counted(dimension))]; }
  std::int64_t elements() const { return shape_.elements(); }
  std::int64_t bytes() const;    ///< of the elements, were they contiguous
  bool contiguous() const;       ///< row-major without gaps
  bool rows_contiguous() const;  ///< the last dimension has stride 1 (or at most one element)

  const void* raw() const { return data_; }

  /// The first element. Errors: core::Error if T is not the dtype.
  template <class T>
  const T* data() const {
    require_dtype(dtype_of<T>);
    return static_cast<const T*>(data_);
  }

  /// Elements [begin, end) of one dimension. Errors: core::Error out of range.
  ConstTensorView slice(int dimension, std::int64_t begin, std::int64_t end) const;

  /// One element of a dimension; the dimension goes.
  ConstTensorView select(int dimension, std::int64_t element) const;

  /// Two dimensions exchanged.
  ConstTensorView transposed(int first, int second) const;

  /// Another shape over the same elements. Errors: core::Error if not contiguous, or the counts differ.
  ConstTensorView reshaped(const Shape& shape) const;

  /// All dimensions but the last as one: rows x C. Errors: core::Error if the rows are not evenly spaced.
  ConstTensorView as_rows() const;

  /// "bf16[4 x 1024 x 768]", with strides if not contiguous.
  std::string text() const;

 protected:
  void require_dtype(Dtype wanted) const;

  int counted(int dimension) const {
    const int from_first = dimension < 0 ? dimension + rank() : dimension;
    if (from_first < 0 || from_first >= rank()) refuse_dimension(dimension);
    return from_first;
  }
  [[noreturn]] void refuse_dimension(int dimension) const;

  const void* data_ = nullptr;
  Shape shape_;
  std::array<std::int64_t, kMaxRank> strides_{};
  Dtype dtype_ = Dtype::kFloat32;
  Device device_ = kCpu;
  bool present_ = false;
};

/// A ConstTensorView whose elements may be written. A const TensorView is a constant place, not constant content.
class TensorView : public ConstTensorView {
 public:
  TensorView() = default;
  TensorView(void* data, Dtype dtype, const Shape& shape, Device device = kCpu)
      : ConstTensorView(data, dtype, shape, device) {}
  TensorView(void* data, Dtype dtype, const Shape& shape, std::span<const std::int64_t> strides, Device device = kCpu)
      : ConstTensorView(data, dtype, shape, strides, device) {}

  void* raw() const { return const_cast<void*>(data_); }
  template <class T>
  T* data() const {
    require_dtype(dtype_of<T>);
    return static_cast<T*>(raw());
  }

  TensorView slice(int dimension, std::int64_t begin, std::int64_t end) const;
  TensorView select(int dimension, std::int64_t element) const;
  TensorView transposed(int first, int second) const;
  TensorView reshaped(const Shape& shape) const;
  TensorView as_rows() const;

 private:
  explicit TensorView(const ConstTensorView& view) : ConstTensorView(view) {}
};

/// Checks that an operation's argument is what it must be.
/// Errors: core::Error "rms_norm_forward: weight is bf16[5], not fp32[4]".
void require_tensor(const char* operation, const char* argument, const ConstTensorView& tensor, Dtype dtype,
                    const Shape& shape);

/// The same for the shape alone: any floating-point dtype.
void require_float_tensor(const char* operation, const char* argument, const ConstTensorView& tensor,
                          const Shape& shape);

/// Errors: core::Error "<operation>: <what>" unless `holds`.
void require(bool holds, const char* operation, const char* what);

}  // namespace braise::core
