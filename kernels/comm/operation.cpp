// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/operation.h"

#include "kernels/comm/workspace.h"
#include "kernels/core/add.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"

namespace braise::comm {
namespace {

constexpr std::size_t kWindow = 4;  // messages on their way: the next is there when one is done

bool advance_all(std::vector<Chain>& chains, std::int64_t allowed = Chain::kAllRounds) {
  bool changed = false;
  for (Chain& chain : chains) changed |= chain.advance(allowed);
  return changed;
}

bool all_finished(const std::vector<Chain>& chains) {
  return std::ranges::all_of(chains, [](const Chain& chain) { return chain.finished(); });
}

std::int64_t sum_bytes(const std::vector<Chain>& chains, Chain::Direction direction) {
  std::int64_t sum = 0;
  for (const Chain& chain : chains) sum += chain.direction() == direction ? chain.bytes() : 0;
  return sum;
}

std::string text(const Note& note) {
  static constexpr std::array<const char*, 6> kNames{"all_reduce_sum", "reduce_scatter_sum", "all_gather",
                                                     "broadcast",      "all_to_all",         "send/receive"};
  return std::string(kNames[std::min<std::size_t>(note.kind, kNames.size() - 1)]) + " of " +
         std::string(core::name(static_cast<core::Dtype>(note.dtype))) + ", sends " + std::to_string(note.sent) +
         " elements and wants " + std::to_string(note.wanted);
}

}  // namespace

bool Chain::advance(std::int64_t allowed) {
  bool changed = false;
  while (!on_the_way_.empty() && on_the_way_.front()->done()) {
    on_the_way_.pop_front();
    ++done_;
    changed = true;
  }
  while (on_the_way_.size() < kWindow && done_ + on_the_way_.size() < parts_.size()) {
    const Part& part = parts_[done_ + on_the_way_.size()];
    if (part.round >= allowed) break;
    on_the_way_.push_back(direction_ == Direction::kSend ? transport_->send(peer_, tag_, part.bytes)
                                                         : transport_->receive(peer_, tag_, part.bytes));
    changed = true;
  }
  return changed;
}

std::int64_t Chain::bytes() const {
  std::int64_t sum = 0;
  for (const Part& part : parts_) sum += static_cast<std::int64_t>(part.bytes.size());
  return sum;
}

void Operation::tell(Transport& transport, int peer, int tag, const Note& mine) {
  auto told = std::make_unique<Told>();
  told->mine = mine;
  told->chain = std::make_unique<Chain>(transport, Chain::Direction::kSend, peer, tag);
  told->chain->add(0, std::as_writable_bytes(std::span(&told->mine, 1)));
  telling_.push_back(std::move(told));
}

void Operation::hear(Transport& transport, int peer, int tag, const Note& mine) {
  auto told = std::make_unique<Told>();
  told->mine = mine;
  told->chain = std::make_unique<Chain>(transport, Chain::Direction::kReceive, peer, tag);
  told->chain->add(0, std::as_writable_bytes(std::span(&told->theirs, 1)));
  hearing_.push_back(std::move(told));
}

void Operation::compare(const Told& told) const {
  if (told.theirs.fits(told.mine)) return;
  throw core::Error(where_ + ": ranks disagree: rank " + std::to_string(rank_) + " calls " + text(told.mine) +
                    "; rank " + std::to_string(told.chain->peer()) + " calls " + text(told.theirs) +
                    (told.mine.layout != told.theirs.layout ? ", of other sizes or ranges" : ""));
}

bool Operation::advance() {
  bool changed = false;
  std::erase_if(telling_, [&](const auto& told) {
    changed |= told->chain->advance();
    return told->chain->finished();
  });
  std::erase_if(hearing_, [&](const auto& told) {
    changed |= told->chain->advance();
    if (told->chain->finished()) compare(*told);
    return told->chain->finished();
  });
  if (early_ == nullptr) {
    try {
      changed |= advance_work();
    } catch (...) {
      early_ = std::current_exception();  // most likely because ranks disagree, which says more
    }
  }
  if (early_ != nullptr && hearing_.empty()) std::rethrow_exception(early_);
  return changed;
}

bool ExchangeOperation::advance_work() {
  return advance_all(chains_);
}

bool ExchangeOperation::finished() const {
  return told() && all_finished(chains_);
}

void ExchangeOperation::release() {
  Operation::release();
  chains_.clear();
}

std::int64_t ExchangeOperation::bytes(Chain::Direction direction) const {
  return sum_bytes(chains_, direction);
}

bool BroadcastOperation::advance_work() {
  bool changed = part_ != nullptr && part_->advance();
  changed |= advance_all(chains_);
  changed |= advance_all(passing_, part_ != nullptr ? part_->rounds_done() : Chain::kAllRounds);
  return changed;
}

bool BroadcastOperation::finished() const {
  return told() && (part_ == nullptr || part_->finished()) && all_finished(chains_) && all_finished(passing_);
}

void BroadcastOperation::release() {
  Operation::release();
  part_.reset();
  chains_.clear();
  passing_.clear();
}

std::int64_t BroadcastOperation::bytes(Chain::Direction direction) const {
  const std::int64_t part = part_ != nullptr && part_->direction() == direction ? part_->bytes() : 0;
  return part + sum_bytes(chains_, direction) + sum_bytes(passing_, direction);
}

SumOperation::SumOperation(std::shared_ptr<Signal> signal, core::Category category, std::string where, int rank,
                           Work work, Workspace& workspace, core::Stream& stream)
    : Operation(std::move(signal), category, std::move(where), rank),
      rank_(rank),
      work_(std::move(work)),
      workspace_(workspace),
      stream_(stream) {}

std::byte* SumOperation::slot(const Workspace& workspace, int rank, int peer, std::int64_t round,
                              std::int64_t slot_bytes) {
  const int other = peer < rank ? peer : peer - 1;
  return static_cast<std::byte*>(workspace.slots.data()) + (2 * other + round % 2) * slot_bytes;
}

void SumOperation::sum_round() {
  const core::Dtype dtype = work_.mine.dtype();
  const std::int64_t slot_bytes = work_.round * core::bits(dtype) / 8;
  const std::int64_t begin = summed_ * work_.round;
  const std::int64_t end = std::min(begin + work_.round, work_.mine.elements());
  std::vector<core::TensorView> terms(static_cast<std::size_t>(work_.ranks));
  for (std::int64_t first = begin; first < end; first += kSumBlock) {
    const std::int64_t count = std::min(kSumBlock, end - first);
    for (int r = 0; r < work_.ranks; ++r) {
      core::TensorView& term = terms[static_cast<std::size_t>(r)];
      if (r == rank_) {
        term = workspace_.block.view(dtype, core::Shape{count}, 0);
        work_.mine.for_each(first, first + count, [&](const core::TensorView& piece, std::int64_t offset) {
          core::copy(stream_, term.slice(0, offset, offset + piece.elements()), piece);
        });
      } else {
        const core::TensorView received(slot(workspace_, rank_, r, summed_, slot_bytes), dtype,
                                        core::Shape{work_.round});
        term = received.slice(0, first - begin, first - begin + count);
      }
    }
    for (int distance = 1; distance < work_.ranks; distance *= 2) {
      for (int r = 0; r + distance < work_.ranks; r += 2 * distance) {
        core::add(stream_, terms[static_cast<std::size_t>(r)], terms[static_cast<std::size_t>(r + distance)]);
      }
    }
    work_.result.for_each(first, first + count, [&](const core::TensorView& piece, std::int64_t offset) {
      const core::TensorView sum = terms[0].slice(0, offset, offset + piece.elements());
      if (work_.accumulate == core::Accumulate::kAdd) {
        core::add(stream_, piece, sum);
      } else {
        core::copy(stream_, piece, sum);
      }
    });
  }
  stream_.synchronize();
}

bool SumOperation::advance_work() {
  bool changed = advance_all(to_);
  changed |= advance_all(from_, summed_ + 2);  // two slots
  while (summed_ < rounds() &&
         std::ranges::all_of(from_, [&](const Chain& chain) { return chain.rounds_done() > summed_; })) {
    sum_round();
    ++summed_;
    advance_all(from_, summed_ + 2);
    advance_all(results_to_, summed_);
    changed = true;
  }
  changed |= advance_all(results_to_, summed_);
  // Where a result goes, what this rank has sent must have left.
  for (std::size_t i = 0; i < results_from_.size(); ++i) changed |= results_from_[i].advance(to_[i].rounds_done());
  return changed;
}

bool SumOperation::finished() const {
  return told() && summed_ == rounds() && all_finished(to_) && all_finished(from_) && all_finished(results_to_) &&
         all_finished(results_from_);
}

void SumOperation::release() {
  Operation::release();
  for (std::vector<Chain>* chains : {&to_, &from_, &results_to_, &results_from_}) chains->clear();
}

std::int64_t SumOperation::bytes(Chain::Direction direction) const {
  return sum_bytes(to_, direction) + sum_bytes(from_, direction) + sum_bytes(results_to_, direction) +
         sum_bytes(results_from_, direction);
}

}  // namespace braise::comm
