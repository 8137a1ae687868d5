// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/tensor.h"

#include "kernels/core/error.h"

namespace braise::core {

ConstTensorView::ConstTensorView(const void* data, Dtype dtype, const Shape& shape, Device device)
    : data_(data), shape_(shape), dtype_(dtype), device_(device), present_(true) {
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides_[static_cast<std::size_t>(i)] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
}

ConstTensorView::ConstTensorView(const void* data, Dtype dtype, const Shape& shape,
                                 std::span<const std::int64_t> strides, Device device)
    : data_(data), shape_(shape), dtype_(dtype), device_(device), present_(true) {
  if (static_cast<int>(strides.size()) != shape.rank()) throw Error("a stride is needed for each dimension");
  for (std::size_t i = 0; i < strides.size(); ++i) strides_[i] = strides[i];
  if (dtype == Dtype::kInt4 && !contiguous()) throw Error("an int4 tensor must be contiguous");
}

void ConstTensorView::refuse_dimension(int dimension) const {
  throw Error("dimension " + std::to_string(dimension) + " of " + text());
}

std::int64_t ConstTensorView::bytes() const {
  if (dtype_ != Dtype::kInt4) return elements() * (bits(dtype_) / 8);
  if (rank() == 0) return 1;
  const std::int64_t last = shape_[rank() - 1];
  return last == 0 ? 0 : elements() / last * ((last + 1) / 2);  // each row starts on a byte
}

bool ConstTensorView::contiguous() const {
  std::int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[static_cast<std::size_t>(i)] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

bool ConstTensorView::rows_contiguous() const {
  return rank() == 0 || shape_[rank() - 1] <= 1 || strides_[static_cast<std::size_t>(rank() - 1)] == 1;
}

ConstTensorView ConstTensorView::slice(int dimension, std::int64_t begin, std::int64_t end) const {
  const int at = counted(dimension);
  if (begin < 0 || begin > end || end > shape_[at]) {
    throw Error("slice [" + std::to_string(begin) + ", " + std::to_string(end) + ") of dimension " +
                std::to_string(at) + " of " + text());
  }
  if (dtype_ == Dtype::kInt4 && (at != 0 || rank() == 1)) throw Error("an int4 tensor is sliced by rows only");
  ConstTensorView view = *this;
  std::array<std::int64_t, kMaxRank> extents{};
  for (int i = 0; i < rank(); ++i) extents[static_cast<std::size_t>(i)] = i == at ? end - begin : shape_[i];
  view.shape_ = Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(rank())));
  std::int64_t skipped = begin * strides_[static_cast<std::size_t>(at)];
  if (dtype_ == Dtype::kInt4) {
    const std::int64_t last = shape_[rank() - 1];
    skipped = last == 0 ? 0 : skipped / last * ((last + 1) / 2);
  } else {
    skipped *= bits(dtype_) / 8;
  }
  if (data_ != nullptr) view.data_ = static_cast<const std::byte*>(data_) + skipped;
  return view;
}

ConstTensorView ConstTensorView::select(int dimension, std::int64_t element) const {
  const int at = counted(dimension);
  const ConstTensorView sliced = slice(at, element, element + 1);
  ConstTensorView view = sliced;
  std::array<std::int64_t, kMaxRank> extents{};
  std::size_t rank = 0;
  for (int i = 0; i < sliced.rank(); ++i) {
    if (i == at) continue;
    extents[rank] = sliced.shape_[i];
    view.strides_[rank++] = sliced.strides_[static_cast<std::size_t>(i)];
  }
  view.shape_ = Shape(std::span<const std::int64_t>(extents.data(), rank));
  return view;
}

ConstTensorView ConstTensorView::transposed(int first, int second) const {
  const int a = counted(first);
  const int b = counted(second);
  if (dtype_ == Dtype::kInt4 && a != b) throw Error("an int4 tensor has no transposed view");
  ConstTensorView view = *this;
  std::array<std::int64_t, kMaxRank> extents{};
  for (int i = 0; i < rank(); ++i) {
    const int from = i == a ? b : i == b ? a : i;
    extents[static_cast<std::size_t>(i)] = shape_[from];
    view.strides_[static_cast<std::size_t>(i)] = strides_[static_cast<std::size_t>(from)];
  }
  view.shape_ = Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(rank())));
  return view;
}

ConstTensorView ConstTensorView::reshaped(const Shape& shape) const {
  if (!contiguous() || shape.elements() != elements()) {
    throw Error(text() + " cannot be seen as " + shape.text());
  }
  return ConstTensorView(data_, dtype_, shape, device_);
}

ConstTensorView ConstTensorView::as_rows() const {
  if (rank() == 0) throw Error("a scalar has no rows");
  const std::int64_t columns = shape_[rank() - 1];
  std::int64_t rows = 1;
  std::int64_t stride = 0;  // of the innermost dimension of rows that has more than one
  for (int i = rank() - 2; i >= 0; --i) {
    const std::int64_t own = strides_[static_cast<std::size_t>(i)];
    if (shape_[i] > 1 && rows > 1 && own != stride * rows)
      throw Error("the rows of " + text() + " are not evenly spaced");
    if (shape_[i] > 1 && rows == 1) stride = own;
    rows *= shape_[i];
  }
  const std::array<std::int64_t, 2> strides{rows > 1 ? stride : columns,
                                            strides_[static_cast<std::size_t>(rank() - 1)]};
  return ConstTensorView(data_, dtype_, Shape{rows, columns}, strides, device_);
}

std::string ConstTensorView::text() const {
  if (!present_) return "no tensor";
  std::string text = std::string(name(dtype_)) + "[" + shape_.text() + "]";
  if (!contiguous()) {
    text += " with strides";
    for (int i = 0; i < rank(); ++i)
      text += (i > 0 ? " x " : " ") + std::to_string(strides_[static_cast<std::size_t>(i)]);
  }
  return text;
}

void ConstTensorView::require_dtype(Dtype wanted) const {
  if (dtype_ != wanted) throw Error(text() + " was read as " + std::string(name(wanted)));
}

TensorView TensorView::slice(int dimension, std::int64_t begin, std::int64_t end) const {
  return TensorView(ConstTensorView::slice(dimension, begin, end));
}

TensorView TensorView::select(int dimension, std::int64_t element) const {
  return TensorView(ConstTensorView::select(dimension, element));
}

TensorView TensorView::transposed(int first, int second) const {
  return TensorView(ConstTensorView::transposed(first, second));
}

TensorView TensorView::reshaped(const Shape& shape) const {
  return TensorView(ConstTensorView::reshaped(shape));
}

TensorView TensorView::as_rows() const {
  return TensorView(ConstTensorView::as_rows());
}

void require_tensor(const char* operation, const char* argument, const ConstTensorView& tensor, Dtype dtype,
                    const Shape& shape) {
  if (tensor && tensor.dtype() == dtype && tensor.shape() == shape) return;
  throw Error(std::string(operation) + ": " + argument + " is " + tensor.text() + ", not " + std::string(name(dtype)) +
              "[" + shape.text() + "]");
}

void require_float_tensor(const char* operation, const char* argument, const ConstTensorView& tensor,
                          const Shape& shape) {
  if (tensor && is_float(tensor.dtype()) && tensor.shape() == shape) return;
  throw Error(std::string(operation) + ": " + argument + " is " + tensor.text() + ", not fp32, bf16 or fp16 [" +
              shape.text() + "]");
}

void require(bool holds, const char* operation, const char* what) {
  if (!holds) throw Error(std::string(operation) + ": " + what);
}

}  // namespace braise::core
