// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/all_reduce.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/add.h"
#include "kernels/core/arena.h"
#include "kernels/core/error.h"

namespace braise::comm {
namespace {

constexpr std::int64_t kBufferElements = std::int64_t{16} << 18;  // of 4 bytes

/// Several tensors as one range of elements.
class Joined {
 public:
  explicit Joined(std::span<const core::TensorView> tensors) : tensors_(tensors) {
    for (const core::TensorView& tensor : tensors) elements_ += tensor.elements();
  }

  std::int64_t elements() const { return elements_; }

  /// Calls visit(address in a tensor, offset from `begin`, count) for what lies in [begin, end).
  template <class Visit>
  void for_each(std::int64_t begin, std::int64_t end, const Visit& visit) const {
    std::int64_t first = 0;
    for (const core::TensorView& tensor : tensors_) {
      const std::int64_t from = std::max(begin, first);
      const std::int64_t to = std::min(end, first + tensor.elements());
      if (from < to) visit(tensor.data<float>() + (from - first), from - begin, to - from);
      first += tensor.elements();
    }
  }

 private:
  std::span<const core::TensorView> tensors_;
  std::int64_t elements_ = 0;
};

std::size_t bytes_of(std::int64_t elements) {
  return static_cast<std::size_t>(elements) * sizeof(float);
}

std::span<std::byte> as_bytes(float* values, std::int64_t elements) {
  return {reinterpret_cast<std::byte*>(values), bytes_of(elements)};
}

/// parts[0] = the tree of all parts.
void sum_tree(core::Stream& stream, float* parts, std::int64_t count, int ranks) {
  const auto part = [&](std::int64_t r) {
    return core::TensorView(parts + r * count, core::Dtype::kFloat32, core::Shape{count});
  };
  for (std::int64_t distance = 1; distance < ranks; distance *= 2) {
    for (std::int64_t r = 0; r + distance < ranks; r += 2 * distance) core::add(stream, part(r), part(r + distance));
  }
}

}  // namespace

void all_reduce_sum(Communicator& comm, core::Stream& stream, std::span<const core::TensorView> tensors) {
  for (const core::TensorView& tensor : tensors) {
    core::require(tensor.dtype() == core::Dtype::kFloat32 && tensor.contiguous(), "all_reduce_sum",
                  "tensors must be fp32 and contiguous");
  }
  const int ranks = comm.size();
  if (ranks == 1) return;
  const Joined joined(tensors);
  const std::int64_t most = std::max<std::int64_t>(1, kBufferElements / ranks);  // for one rank at a time
  const std::int64_t rounds = (joined.elements() + ranks * most - 1) / (ranks * most);
  if (rounds == 0) return;
  const std::int64_t share = (joined.elements() + ranks * rounds - 1) / (ranks * rounds);
  const auto buffer = [&] {
    return stream.arena().tensor(core::Dtype::kFloat32, core::Shape{ranks * share}, core::Category::kCommunication,
                                 "all-reduce");
  };
  const core::Tensor mine = buffer();
  const core::Tensor theirs = buffer();
  auto* const send = mine.view.data<float>();
  auto* const receive = theirs.view.data<float>();
  stream.synchronize();
  for (std::int64_t begin = 0; begin < joined.elements(); begin += ranks * share) {
    const std::int64_t end = std::min(joined.elements(), begin + ranks * share);
    joined.for_each(begin, end, [&](const float* from, std::int64_t offset, std::int64_t count) {
      std::memcpy(send + offset, from, bytes_of(count));
    });
    std::fill(send + (end - begin), send + ranks * share, 0.0f);
    comm.all_to_all(as_bytes(send, ranks * share), as_bytes(receive, ranks * share), bytes_of(share));
    sum_tree(stream, receive, share, ranks);
    stream.synchronize();
    comm.all_gather(as_bytes(receive, share), as_bytes(send, ranks * share));
    joined.for_each(begin, end, [&](float* to, std::int64_t offset, std::int64_t count) {
      std::memcpy(to, send + offset, bytes_of(count));
    });
  }
}

}  // namespace braise::comm
