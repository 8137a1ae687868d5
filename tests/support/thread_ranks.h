// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <barrier>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/comm/communicator.h"

namespace braise::test {

/// Ranks that are threads of the test.
class ThreadRanks {
 public:
  /// Runs `work` once for each rank, and gives back what it threw: the first rank's, if several did. Ranks must throw
  /// together or not wait for each other any more.
  static void run(int ranks, const std::function<void(comm::Communicator&)>& work) {
    ThreadRanks group(ranks);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        Rank communicator(group, rank);
        try {
          work(communicator);
        } catch (...) {
          errors[static_cast<std::size_t>(rank)] = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  explicit ThreadRanks(int ranks) : barrier_(ranks), given_(static_cast<std::size_t>(ranks)) {}

  class Rank : public comm::Communicator {
   public:
    Rank(ThreadRanks& group, int rank) : group_(group), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(group_.given_.size()); }
    void barrier() override { group_.barrier_.arrive_and_wait(); }

    std::vector<std::string> all_gather(const std::string& mine) override {
      group_.given_[static_cast<std::size_t>(rank_)] = mine;
      barrier();
      std::vector<std::string> all = group_.given_;
      barrier();
      return all;
    }

    std::string broadcast(const std::string& bytes, int root) override {
      return all_gather(bytes)[static_cast<std::size_t>(root)];
    }

    std::int64_t all_max(std::int64_t value) override {
      std::int64_t greatest = value;
      for (const std::string& one : all_gather(std::to_string(value)))
        greatest = std::max(greatest, std::int64_t{std::stoll(one)});
      return greatest;
    }

    void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive,
                    std::size_t bytes_per_rank) override {
      const std::vector<std::string> all =
          all_gather(std::string(reinterpret_cast<const char*>(send.data()), send.size()));
      for (std::size_t from = 0; from < all.size(); ++from) {
        std::memcpy(receive.data() + from * bytes_per_rank,
                    all[from].data() + static_cast<std::size_t>(rank_) * bytes_per_rank, bytes_per_rank);
      }
    }

   private:
    ThreadRanks& group_;
    int rank_;
  };

  std::barrier<> barrier_;
  std::vector<std::string> given_;
};

}  // namespace braise::test
