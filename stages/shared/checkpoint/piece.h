// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/shape.h"
#include "kernels/core/tensor.h"

namespace braise::checkpoint {

/// Elements [begin, end) of a tensor, counted in row-major order.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t elements() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// The part of a tensor's elements that is dealt to one of `ranks`: equal parts as near as may be, in the order of
/// ranks, cut at multiples of core::kReductionBlock. Of small tensors some ranks get nothing.
Range share_of(std::int64_t elements, int rank, int ranks);

/// Elements in row-major order, in the machine's memory or to be read from elsewhere.
class Content {
 public:
  /// Fills `to` with the bytes from `offset` on. By any thread, several at once. Errors: core::Error naming what is
  /// read.
  using Read = std::function<void(std::int64_t offset, std::span<std::byte> to)>;

  Content() = default;
  Content(const core::ConstTensorView& memory)  // NOLINT(google-explicit-constructor): what most have
      : memory_(memory), dtype_(memory.dtype()), elements_(memory.elements()) {}
  Content(core::Dtype dtype, std::int64_t elements, Read read)
      : read_(std::move(read)), dtype_(dtype), elements_(elements) {}

  core::Dtype dtype() const { return dtype_; }
  std::int64_t elements() const { return elements_; }
  std::int64_t bytes() const { return elements_ * core::bits(dtype_) / 8; }

  /// Where it lies in memory; a view of nothing where it does not.
  const core::ConstTensorView& memory() const { return memory_; }

  /// Elements [begin, end). In memory: contiguous.
  Content slice(std::int64_t begin, std::int64_t end) const;

  /// The bytes [offset, offset + count): those in memory, which must be contiguous, or what is read into `buffer`.
  std::span<const std::byte> look_at(std::int64_t offset, std::int64_t count, std::vector<std::byte>& buffer) const;

  /// to = the bytes from `offset` on.
  void read(std::int64_t offset, std::span<std::byte> to) const;

 private:
  core::ConstTensorView memory_;
  Read read_;
  std::int64_t begin_ = 0;  // bytes, of what read_ reads
  core::Dtype dtype_ = core::Dtype::kFloat32;
  std::int64_t elements_ = 0;
};

/// What one rank contributes of one logical tensor.
struct Piece {
  /// Where in the checkpoint: "parameters/<name>", "master/<name>", "optimizer/exp_avg/<name>", with the name that
  /// Hugging Face gives the parameter. Parts between slashes are not empty, "." or "..", and printable ASCII without
  /// '@'.
  std::string path;
  core::Shape shape;       ///< of the whole tensor
  std::int64_t begin = 0;  ///< of the range: a multiple of core::kReductionBlock
  /// The range's elements, contiguous, of any shape; not int4. It ends where another rank's begins, or the tensor ends.
  Content data;
};

}  // namespace braise::checkpoint
