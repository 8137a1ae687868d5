// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/accumulate.h"
#include "kernels/core/arena.h"
#include "kernels/core/ledger.h"
#include "kernels/core/tensor.h"

namespace braise::comm {

/// Elements [begin, end) of tensors joined one after another.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// [0, elements) dealt to ranks in parts as even as whole blocks of `block` elements allow; the last block may be
/// short, and ranks without any have an empty range.
std::vector<Range> even_ranges(std::int64_t elements, int ranks, std::int64_t block);

class Operation;

/// An operation of Collectives that may still go on. Its tensors must live and stay untouched until it is done.
/// Destroying it before gives the operation up: its tensors are no more written to, and its Collectives fails from then
/// on, as the other ranks' do when they miss what this one would have sent.
class Pending {
 public:
  Pending() = default;  ///< done
  Pending(Pending&& other) noexcept = default;
  Pending& operator=(Pending&& other) noexcept;
  ~Pending();

  /// Whether it is done. Errors: as wait.
  bool test();

  /// Blocks until it is done. Errors: core::Error if it failed, as every operation after it then does.
  void wait();

 private:
  friend class Collectives;
  explicit Pending(std::shared_ptr<Operation> operation);
  std::shared_ptr<Operation> operation_;
};

/// Bytes of tensors that this rank has sent and received, by what they were for.
struct Traffic {
  std::array<std::int64_t, core::kCategories> sent{};
  std::array<std::int64_t, core::kCategories> received{};
};

/// Exchange of tensors among the ranks of one axis (data, tensor, pipeline), while the calling thread goes on: a thread
/// of its own sends, receives and sums.
///
/// Every operation is collective unless it says otherwise: call it on every rank, in the same order, with tensors of
/// the same dtypes and sizes; ranks that disagree are found and named. Several may be under way at once. Tensors:
/// floating-point, those that are summed fp32 or bf16, one dtype in an operation, contiguous, on the CPU; what computes
/// them must be done before the call. Of several tensors the elements count as if they lay one after another.
/// `category`: what the bytes are counted as.
///
/// Sums are taken by a pairwise tree over the ranks, (x[0] + x[1]) + (x[2] + x[3]) + ..., a rank without a partner
/// going up as it is; each of these sums is rounded to the tensors' dtype, as core::add does. So where each rank gives
/// the tree of an aligned power-of-two block of terms, the result is the tree of all of them, whatever the number of
/// ranks.
///
/// Errors: core::Error, at the call for arguments that cannot be, in Pending for what other ranks do.
/// Calls come from one thread at a time.
class Collectives {
 public:
  /// `axis`: for messages of errors. The workspace that sums need is of category communication, at most
  /// workspace_bytes(ranks) in all, taken with the first sum. Both must outlive it. Not collective.
  Collectives(Communicator& comm, core::Arena& arena, std::string axis);
  ~Collectives();  ///< gives up what is not done
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;

  int rank() const;
  int size() const;

  /// tensors = the sum of all ranks' tensors. 2 (n - 1) / n of the bytes leave each of n ranks, as in a ring.
  Pending all_reduce_sum(std::span<const core::TensorView> tensors, core::Category category);

  /// shard = (or +=, in fp32) the part `owned[rank]` of the sum of all ranks' tensors. All ranks send an owner its
  /// part, which sums them. `owned`: the same on every rank, one range a rank, in order, disjoint. shard:
  /// one-dimensional; it may lie where this rank's part of a single tensor lies, otherwise apart from the tensors; fp32
  /// for kAdd.
  Pending reduce_scatter_sum(std::span<const core::TensorView> tensors, std::span<const Range> owned,
                             const core::TensorView& shard, core::Accumulate accumulate, core::Category category);

  /// The part `owned[r]` of tensors = rank r's shard. Ranges and shard as for reduce_scatter_sum; what no range holds
  /// stays as it is.
  Pending all_gather(const core::ConstTensorView& shard, std::span<const Range> owned,
                     std::span<const core::TensorView> tensors, core::Category category);

  /// tensors = those of rank `root`, which sends each rank a part that all then exchange.
  Pending broadcast(std::span<const core::TensorView> tensors, int root, core::Category category);

  /// Elements received[r] of `to` = elements sent[rank] of rank r's `from`, which are as many. The ranges of `received`
  /// are disjoint, the two tensors apart.
  Pending all_to_all(const core::ConstTensorView& from, std::span<const Range> sent, const core::TensorView& to,
                     std::span<const Range> received, core::Category category);

  /// One rank's tensor into another's; not collective: called on those two. Of several between two ranks the first sent
  /// is the first received.
  Pending send(const core::ConstTensorView& tensor, int to, core::Category category);
  Pending receive(const core::TensorView& tensor, int from, core::Category category);

  /// What has been sent and received by operations that are done.
  Traffic traffic() const;

 private:
  class Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace braise::comm
