// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <climits>

#include "kernels/comm/communicator.h"
#include "kernels/comm/split.h"
#include "kernels/comm/transport.h"
#include "kernels/core/error.h"

namespace braise::comm {
namespace {

void check(int code, const char* call, core::SourceLocation where = core::SourceLocation::current()) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw core::Error(std::string(call) + " failed: " + std::string(text, static_cast<std::size_t>(length)), where);
}

/// MPI counts are ints.
int count_of(std::size_t bytes, const char* operation) {
  if (bytes > INT_MAX) {
    throw core::Error(std::string(operation) + ": " + std::to_string(bytes) +
                      " bytes for each rank are too many for MPI's counts");
  }
  return static_cast<int>(bytes);
}

// What all ranks together give in one round of an all_gather.
constexpr std::uint64_t kRoundBytes = std::uint64_t{64} << 20;

class MpiMessage final : public Transport::Message {
 public:
  MpiMessage(MPI_Request request, bool received, std::size_t bytes)
      : request_(request), received_(received), bytes_(bytes) {}

  ~MpiMessage() override {
    if (request_ == MPI_REQUEST_NULL) return;
    if (received_) {
      // Until MPI says so it may still write where this was to be received; a partner that has gone may leave it
      // waiting, and then the job is about to end.
      MPI_Cancel(&request_);
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      int done = 0;
      while (done == 0 && std::chrono::steady_clock::now() < end) {
        if (MPI_Test(&request_, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
      }
    }
    if (request_ != MPI_REQUEST_NULL) MPI_Request_free(&request_);
  }
  MpiMessage(const MpiMessage&) = delete;
  MpiMessage& operator=(const MpiMessage&) = delete;

  bool done() override {
    if (request_ == MPI_REQUEST_NULL) return true;
    int done = 0;
    MPI_Status status;
    check(MPI_Test(&request_, &done, &status), "MPI_Test");
    if (done == 0) return false;
    if (received_) {
      int count = 0;
      check(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      if (static_cast<std::size_t>(count) != bytes_) {
        throw core::Error("a message of " + std::to_string(count) + " bytes from rank " +
                          std::to_string(status.MPI_SOURCE) + ", not of " + std::to_string(bytes_));
      }
    }
    return true;
  }

 private:
  MPI_Request request_;
  bool received_;
  std::size_t bytes_;
};

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(MPI_Comm comm) : comm_(comm) {
    int provided = 0;
    check(MPI_Query_thread(&provided), "MPI_Query_thread");
    if (provided < MPI_THREAD_MULTIPLE) {
      throw core::Error("messages beside a computation need MPI_THREAD_MULTIPLE, which MPI was not started with");
    }
  }

  std::unique_ptr<Message> send(int to, int tag, std::span<const std::byte> bytes) override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Isend(bytes.data(), count_of(bytes.size(), "send"), MPI_BYTE, to, tag, comm_, &request), "MPI_Isend");
    return std::make_unique<MpiMessage>(request, false, bytes.size());
  }

  std::unique_ptr<Message> receive(int from, int tag, std::span<std::byte> bytes) override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Irecv(bytes.data(), count_of(bytes.size(), "receive"), MPI_BYTE, from, tag, comm_, &request),
          "MPI_Irecv");
    return std::make_unique<MpiMessage>(request, true, bytes.size());
  }

 private:
  MPI_Comm comm_;
};

/// MPI_COMM_WORLD's duplicate: it keeps these messages apart from any library's.
MPI_Comm duplicate_of_world() {
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");  // of this call too
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  return comm;
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm) : comm_(comm) {
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void barrier() override { check(MPI_Barrier(comm_), "MPI_Barrier"); }

  std::vector<std::string> all_gather(const std::string& mine) override {
    const auto ranks = static_cast<std::size_t>(size_);
    const std::uint64_t my_length = mine.size();
    std::vector<std::uint64_t> lengths(ranks);
    check(MPI_Allgather(&my_length, 1, MPI_UINT64_T, lengths.data(), 1, MPI_UINT64_T, comm_), "MPI_Allgather");

    std::vector<std::string> result(ranks);
    for (std::size_t r = 0; r < ranks; ++r) result[r].reserve(lengths[r]);
    // MPI counts and displacements are ints, and what is received is there twice, so long texts go in rounds.
    const std::uint64_t longest = *std::max_element(lengths.begin(), lengths.end());
    const std::uint64_t round_bytes = std::max<std::uint64_t>(1, kRoundBytes / ranks);
    std::vector<int> counts(ranks), offsets(ranks);
    std::string received;
    for (std::uint64_t begin = 0; begin < longest; begin += round_bytes) {
      std::size_t total = 0;
      for (std::size_t r = 0; r < ranks; ++r) {
        counts[r] = lengths[r] > begin ? static_cast<int>(std::min(round_bytes, lengths[r] - begin)) : 0;
        offsets[r] = static_cast<int>(total);
        total += static_cast<std::size_t>(counts[r]);
      }
      received.resize(total);
      const char* const send = mine.data() + std::min<std::uint64_t>(begin, mine.size());
      check(MPI_Allgatherv(send, counts[static_cast<std::size_t>(rank_)], MPI_BYTE, received.data(), counts.data(),
                           offsets.data(), MPI_BYTE, comm_),
            "MPI_Allgatherv");
      for (std::size_t r = 0; r < ranks; ++r) {
        result[r].append(received, static_cast<std::size_t>(offsets[r]), static_cast<std::size_t>(counts[r]));
      }
    }
    return result;
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() != mine.size() * static_cast<std::size_t>(size_)) {
      throw core::Error("all_gather: the buffer must hold the bytes of each rank");
    }
    const int count = count_of(mine.size(), "all_gather");
    check(MPI_Allgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_), "MPI_Allgather");
  }

  std::string broadcast(const std::string& bytes, int root) override {
    std::uint64_t length = bytes.size();
    check(MPI_Bcast(&length, 1, MPI_UINT64_T, root, comm_), "MPI_Bcast");
    std::string result = rank_ == root ? bytes : std::string(length, '\0');
    for (std::uint64_t begin = 0; begin < length;) {
      const auto count = static_cast<int>(std::min<std::uint64_t>(length - begin, 1 << 30));
      check(MPI_Bcast(result.data() + begin, count, MPI_BYTE, root, comm_), "MPI_Bcast");
      begin += static_cast<std::uint64_t>(count);
    }
    return result;
  }

  std::int64_t all_max(std::int64_t value) override {
    std::int64_t result = 0;
    check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, MPI_MAX, comm_), "MPI_Allreduce");
    return result;
  }

  void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive, std::size_t bytes_per_rank) override {
    const std::size_t total = bytes_per_rank * static_cast<std::size_t>(size_);
    if (send.size() != total || receive.size() != total) {
      throw core::Error("all_to_all: the buffers must hold " + std::to_string(bytes_per_rank) + " bytes for each rank");
    }
    const int count = count_of(bytes_per_rank, "all_to_all");
    check(MPI_Alltoall(send.data(), count, MPI_BYTE, receive.data(), count, MPI_BYTE, comm_), "MPI_Alltoall");
  }

  std::unique_ptr<Communicator> split(std::span<const int> ranks) override {
    const int place = place_in(ranks, rank_, size_);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, *std::min_element(ranks.begin(), ranks.end()), place, &part), "MPI_Comm_split");
    auto communicator = std::make_unique<MpiCommunicator>(part);
    check_split(*communicator, ranks);
    return communicator;
  }

  std::unique_ptr<Transport> transport() override { return std::make_unique<MpiTransport>(comm_); }

 private:
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> mpi() {
  return std::make_unique<MpiCommunicator>(duplicate_of_world());
}

}  // namespace braise::comm
