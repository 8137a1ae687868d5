// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/comm/communicator.h"
#include "kernels/comm/split.h"
#include "kernels/comm/transport.h"
#include "kernels/core/error.h"

namespace braise::comm {
namespace {

class NoTransport final : public Transport {
 public:
  std::unique_ptr<Message> send(int to, int, std::span<const std::byte>) override {
    throw core::Error("a message to rank " + std::to_string(to) + " of 1");
  }
  std::unique_ptr<Message> receive(int from, int, std::span<std::byte>) override {
    throw core::Error("a message from rank " + std::to_string(from) + " of 1");
  }
};

class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void barrier() override {}
  std::vector<std::string> all_gather(const std::string& mine) override { return {mine}; }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (mine.size() != all.size()) throw core::Error("all_gather: the buffer must hold the bytes of each rank");
    std::copy(mine.begin(), mine.end(), all.begin());
  }

  std::string broadcast(const std::string& bytes, int root) override {
    if (root != 0) throw core::Error("broadcast from rank " + std::to_string(root) + " of 1");
    return bytes;
  }

  std::int64_t all_max(std::int64_t value) override { return value; }

  void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive, std::size_t bytes_per_rank) override {
    if (send.size() != bytes_per_rank || receive.size() != bytes_per_rank) {
      throw core::Error("all_to_all: the buffers must hold " + std::to_string(bytes_per_rank) + " bytes for each rank");
    }
    std::copy(send.begin(), send.end(), receive.begin());
  }

  std::unique_ptr<Communicator> split(std::span<const int> ranks) override {
    place_in(ranks, 0, 1);
    return single();
  }

  std::unique_ptr<Transport> transport() override { return std::make_unique<NoTransport>(); }
};

}  // namespace

std::unique_ptr<Communicator> single() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace braise::comm
