// SPDX-License-Identifier: Apache-2.0
#include "tests/support/thread_ranks.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/comm/split.h"
#include "kernels/comm/transport.h"
#include "kernels/core/error.h"

namespace braise::test {
namespace {

/// What the ranks of a communicator share.
struct Meeting {
  explicit Meeting(int of) : size(of), gifts(static_cast<std::size_t>(of)) {}

  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  bool failed = false;

  // The collective call under way.
  std::vector<std::string> gifts;
  int arrived = 0;
  int left = 0;

  // Messages that have not met, by sender, receiver and tag.
  struct Half {
    std::span<const std::byte> sent;
    std::span<std::byte> received;
    bool is_send = false;
    bool met = false;
    std::string problem;
  };
  std::map<std::tuple<int, int, int>, std::list<std::shared_ptr<Half>>> halves;

  std::map<std::pair<int, std::vector<int>>, std::shared_ptr<Meeting>> parts;  // by number of the split

  void fail() {
    std::vector<std::shared_ptr<Meeting>> below;
    {
      const std::scoped_lock lock(mutex);
      failed = true;
      for (const auto& [ranks, part] : parts) below.push_back(part);
    }
    changed.notify_all();
    for (const auto& part : below) part->fail();
  }

  void require_alive() const {
    if (failed) throw core::Error("another rank has failed");
  }

  /// Every rank's gift; returns when all are there.
  std::vector<std::string> exchange(int rank, const std::string& gift) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return left == 0 || failed; });  // of the call before
    require_alive();
    gifts[static_cast<std::size_t>(rank)] = gift;
    if (++arrived == size) {
      left = size;
      changed.notify_all();
    }
    changed.wait(lock, [&] { return left > 0 || failed; });
    require_alive();
    std::vector<std::string> all = gifts;
    if (--left == 0) {
      arrived = 0;
      changed.notify_all();
    }
    return all;
  }
};

class ThreadMessage final : public comm::Transport::Message {
 public:
  ThreadMessage(std::shared_ptr<Meeting> meeting, std::tuple<int, int, int> key, std::shared_ptr<Meeting::Half> half)
      : meeting_(std::move(meeting)), key_(key), half_(std::move(half)) {
    const std::scoped_lock lock(meeting_->mutex);
    auto& waiting = meeting_->halves[key_];
    if (waiting.empty() || waiting.front()->is_send == half_->is_send) {
      waiting.push_back(half_);
      return;
    }
    Meeting::Half& other = *waiting.front();
    const auto sent = half_->is_send ? half_->sent : other.sent;
    const auto received = half_->is_send ? other.received : half_->received;
    if (sent.size() != received.size()) {
      (half_->is_send ? other : *half_).problem =
          "a message of " + std::to_string(sent.size()) + " bytes, not of " + std::to_string(received.size());
    } else {
      std::copy(sent.begin(), sent.end(), received.begin());
    }
    half_->met = other.met = true;
    waiting.pop_front();
  }

  ~ThreadMessage() override {
    const std::scoped_lock lock(meeting_->mutex);
    if (!half_->met) meeting_->halves[key_].remove(half_);
  }

  bool done() override {
    const std::scoped_lock lock(meeting_->mutex);
    if (!half_->met) meeting_->require_alive();
    if (!half_->problem.empty()) throw core::Error(half_->problem);
    return half_->met;
  }

 private:
  std::shared_ptr<Meeting> meeting_;
  std::tuple<int, int, int> key_;
  std::shared_ptr<Meeting::Half> half_;
};

class ThreadTransport final : public comm::Transport {
 public:
  ThreadTransport(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}

  std::unique_ptr<Message> send(int to, int tag, std::span<const std::byte> bytes) override {
    auto half = std::make_shared<Meeting::Half>();
    half->sent = bytes;
    half->is_send = true;
    return std::make_unique<ThreadMessage>(meeting_, std::tuple(rank_, to, tag), std::move(half));
  }
  std::unique_ptr<Message> receive(int from, int tag, std::span<std::byte> bytes) override {
    auto half = std::make_shared<Meeting::Half>();
    half->received = bytes;
    return std::make_unique<ThreadMessage>(meeting_, std::tuple(from, rank_, tag), std::move(half));
  }

 private:
  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

class ThreadCommunicator final : public comm::Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return meeting_->size; }
  void barrier() override { meeting_->exchange(rank_, ""); }
  std::vector<std::string> all_gather(const std::string& mine) override { return meeting_->exchange(rank_, mine); }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() != mine.size() * static_cast<std::size_t>(size())) {
      throw core::Error("all_gather: the buffer must hold the bytes of each rank");
    }
    std::size_t at = 0;
    for (const std::string& bytes : meeting_->exchange(rank_, text(mine))) {
      const auto piece = std::as_bytes(std::span(bytes));
      std::copy(piece.begin(), piece.end(), all.begin() + static_cast<std::ptrdiff_t>(at));
      at += bytes.size();
    }
  }

  std::string broadcast(const std::string& bytes, int root) override {
    return meeting_->exchange(rank_, bytes).at(static_cast<std::size_t>(root));
  }

  std::int64_t all_max(std::int64_t value) override {
    std::int64_t most = value;
    for (const std::string& other : meeting_->exchange(rank_, std::to_string(value))) {
      most = std::max<std::int64_t>(most, std::stoll(other));
    }
    return most;
  }

  void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive, std::size_t bytes_per_rank) override {
    const std::size_t total = bytes_per_rank * static_cast<std::size_t>(size());
    if (send.size() != total || receive.size() != total) {
      throw core::Error("all_to_all: the buffers must hold " + std::to_string(bytes_per_rank) + " bytes for each rank");
    }
    const std::vector<std::string> all = meeting_->exchange(rank_, text(send));
    for (std::size_t r = 0; r < all.size(); ++r) {
      const auto piece =
          std::as_bytes(std::span(all[r])).subspan(static_cast<std::size_t>(rank_) * bytes_per_rank, bytes_per_rank);
      std::copy(piece.begin(), piece.end(), receive.begin() + static_cast<std::ptrdiff_t>(r * bytes_per_rank));
    }
  }

  std::unique_ptr<comm::Communicator> split(std::span<const int> ranks) override {
    const int place = comm::place_in(ranks, rank_, size());
    std::shared_ptr<Meeting> part;
    {
      const std::scoped_lock lock(meeting_->mutex);
      std::shared_ptr<Meeting>& known = meeting_->parts[{splits_++, std::vector<int>(ranks.begin(), ranks.end())}];
      if (known == nullptr) {
        known = std::make_shared<Meeting>(static_cast<int>(ranks.size()));
        known->failed = meeting_->failed;
      }
      part = known;
    }
    comm::check_split(*std::make_unique<ThreadCommunicator>(part, place), ranks);
    return std::make_unique<ThreadCommunicator>(part, place);
  }

  std::unique_ptr<comm::Transport> transport() override { return std::make_unique<ThreadTransport>(meeting_, rank_); }

 private:
  static std::string text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
  int splits_ = 0;
};

}  // namespace

void with_ranks(int ranks, const std::function<void(comm::Communicator&)>& work) {
  const auto meeting = std::make_shared<Meeting>(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      try {
        ThreadCommunicator comm(meeting, r);
        work(comm);
      } catch (...) {
        {
          const std::scoped_lock lock(mutex);
          if (first == nullptr) first = std::current_exception();
        }
        meeting->fail();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace braise::test
