// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/comm/transport.h"
#include "kernels/core/device.h"

namespace braise::comm {

/// Several tensors of one dtype as one range of elements.
class Joined {
 public:
  Joined() = default;
  explicit Joined(std::span<const core::TensorView> tensors) : tensors_(tensors.begin(), tensors.end()) {
    for (const core::TensorView& tensor : tensors_) elements_ += tensor.elements();
  }

  std::int64_t elements() const { return elements_; }
  core::Dtype dtype() const { return tensors_.empty() ? core::Dtype::kFloat32 : tensors_.front().dtype(); }
  const std::vector<core::TensorView>& tensors() const { return tensors_; }

  /// Calls visit(tensor, offset from `begin`), with one-dimensional pieces of the tensors, for what lies in
  /// [begin, end).
  template <class Visit>
  void for_each(std::int64_t begin, std::int64_t end, const Visit& visit) const {
    std::int64_t first = 0;
    for (const core::TensorView& tensor : tensors_) {
      const std::int64_t from = std::max(begin, first);
      const std::int64_t to = std::min(end, first + tensor.elements());
      if (from < to) {
        visit(tensor.reshaped(core::Shape{tensor.elements()}).slice(0, from - first, to - first), from - begin);
      }
      first += tensor.elements();
    }
  }

 private:
  std::vector<core::TensorView> tensors_;
  std::int64_t elements_ = 0;
};

inline std::span<std::byte> bytes_of(const core::TensorView& tensor) {
  return {static_cast<std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.bytes())};
}

/// The messages of an operation from this rank to another, or back, in order; a few are on their way at a time. They
/// belong to rounds, whose numbers do not decrease.
class Chain {
 public:
  enum class Direction : std::uint8_t { kSend, kReceive };
  static constexpr std::int64_t kAllRounds = INT64_MAX;

  Chain(Transport& transport, Direction direction, int peer, int tag)
      : transport_(&transport), direction_(direction), peer_(peer), tag_(tag) {}
  Chain(Chain&&) noexcept = default;
  Chain& operator=(Chain&&) noexcept = default;

  void add(std::int64_t round, std::span<std::byte> bytes) { parts_.push_back({round, bytes}); }

  /// Starts messages of rounds before `allowed`, and sees which are done; whether anything has changed.
  bool advance(std::int64_t allowed = kAllRounds);

  /// The rounds before it are done.
  std::int64_t rounds_done() const { return done_ < parts_.size() ? parts_[done_].round : kAllRounds; }
  bool finished() const { return done_ == parts_.size(); }
  Direction direction() const { return direction_; }
  int peer() const { return peer_; }
  std::int64_t bytes() const;

 private:
  struct Part {
    std::int64_t round;
    std::span<std::byte> bytes;
  };
  Transport* transport_;
  Direction direction_;
  int peer_;
  int tag_;
  std::vector<Part> parts_;
  std::size_t done_ = 0;
  std::deque<std::unique_ptr<Transport::Message>> on_the_way_;
};

/// What ranks tell each other of an operation, so that those that do not go together are found.
struct Note {
  std::uint64_t kind = 0;  ///< index of a name
  std::uint64_t dtype = 0;
  std::uint64_t sent = 0;    ///< elements from the teller to the told
  std::uint64_t wanted = 0;  ///< elements the other way
  std::uint64_t layout = 0;  ///< a hash of what must be equal besides

  bool fits(const Note& other) const {
    return kind == other.kind && dtype == other.dtype && sent == other.wanted && wanted == other.sent &&
           layout == other.layout;
  }
};

/// What threads that wait for operations share with the one that does them.
struct Signal {
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<int> waiting = 0;
};

/// One operation under way. Made on the calling thread, then driven by that of the engine until it is finished.
class Operation {
 public:
  Operation(std::shared_ptr<Signal> signal, core::Category category, std::string where, int rank)
      : signal_(std::move(signal)), category_(category), where_(std::move(where)), rank_(rank) {}
  virtual ~Operation() = default;

  /// Tells a rank, and hears from it; `expected` is what it must fit.
  void tell(Transport& transport, int peer, int tag, const Note& mine);
  void hear(Transport& transport, int peer, int tag, const Note& mine);

  /// Takes it further; whether anything has changed. Errors: core::Error once it has failed.
  bool advance();
  virtual bool finished() const = 0;

  /// Lets go of all messages, done or not.
  virtual void release() { telling_.clear(), hearing_.clear(); }

  /// Bytes of tensors in that direction.
  virtual std::int64_t bytes(Chain::Direction direction) const = 0;

  /// Whether it needs the engine's workspace, which one operation has at a time.
  virtual bool needs_workspace() const { return false; }

  core::Category category() const { return category_; }

  // Under the signal's mutex.
  bool ended = false;
  bool given_up = false;
  std::exception_ptr failure;

  const std::shared_ptr<Signal>& signal() const { return signal_; }

 protected:
  virtual bool advance_work() = 0;
  bool told() const { return telling_.empty() && hearing_.empty(); }

 private:
  struct Told {
    Note mine, theirs;
    std::unique_ptr<Chain> chain;
  };
  void compare(const Told& told) const;

  std::shared_ptr<Signal> signal_;
  core::Category category_;
  std::string where_;
  int rank_;
  std::vector<std::unique_ptr<Told>> telling_, hearing_;
  std::exception_ptr early_;  // of messages, while a rank may still tell why
};

/// Chains that go on each by itself.
class ExchangeOperation final : public Operation {
 public:
  using Operation::Operation;
  void add(Chain chain) { chains_.push_back(std::move(chain)); }
  bool finished() const override;
  void release() override;
  std::int64_t bytes(Chain::Direction direction) const override;

 private:
  bool advance_work() override;
  std::vector<Chain> chains_;
};

/// Parts from a root, each passed on by the rank it went to.
class BroadcastOperation final : public Operation {
 public:
  using Operation::Operation;
  void set_part(Chain chain) { part_ = std::make_unique<Chain>(std::move(chain)); }
  void add(Chain chain) { chains_.push_back(std::move(chain)); }
  void pass_on(Chain chain) { passing_.push_back(std::move(chain)); }
  bool finished() const override;
  void release() override;
  std::int64_t bytes(Chain::Direction direction) const override;

 private:
  bool advance_work() override;
  std::unique_ptr<Chain> part_;  // what this rank passes on, from the root
  std::vector<Chain> chains_, passing_;
};

/// Memory of sums: two slots for each other rank, and a block for this one.
struct Workspace {
  core::Buffer slots;
  core::Buffer block;
};

/// This rank's part of a sum over ranks, and, of an all-reduce, everybody's results.
class SumOperation final : public Operation {
 public:
  struct Work {
    Joined mine;    ///< this rank's terms, from the range's begin
    Joined result;  ///< as many elements
    core::Accumulate accumulate = core::Accumulate::kOverwrite;
    std::int64_t round = 0;  ///< elements
    int ranks = 1;
  };

  SumOperation(std::shared_ptr<Signal> signal, core::Category category, std::string where, int rank, Work work,
               Workspace& workspace, core::Stream& stream);

  void scatter_to(Chain chain) { to_.push_back(std::move(chain)); }
  void scatter_from(Chain chain) { from_.push_back(std::move(chain)); }
  /// In the order of scatter_to and scatter_from.
  void gather_to(Chain chain) { results_to_.push_back(std::move(chain)); }
  void gather_from(Chain chain) { results_from_.push_back(std::move(chain)); }

  /// The memory that a rank's part of a round is received into.
  static std::byte* slot(const Workspace& workspace, int rank, int peer, std::int64_t round, std::int64_t slot_bytes);

  bool finished() const override;
  void release() override;
  std::int64_t bytes(Chain::Direction direction) const override;
  bool needs_workspace() const override { return true; }

 private:
  bool advance_work() override;
  void sum_round();
  std::int64_t rounds() const { return (work_.mine.elements() + work_.round - 1) / work_.round; }

  int rank_;
  Work work_;
  Workspace& workspace_;
  core::Stream& stream_;
  std::int64_t summed_ = 0;  // rounds
  std::vector<Chain> to_, from_, results_to_, results_from_;
};

}  // namespace braise::comm
