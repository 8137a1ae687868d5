// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace braise::comm {

class Transport;

/// The ranks of a job and how they exchange bytes. Every member is collective unless it says otherwise: call it on
/// every rank, in the same order. Errors: core::Error (MPI's own errors included).
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  ///< not collective
  virtual int size() const = 0;  ///< not collective

  virtual void barrier() = 0;

  /// Every rank's bytes, by rank; lengths may differ.
  virtual std::vector<std::string> all_gather(const std::string& mine) = 0;

  /// Every rank's bytes, by rank, all of one length.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;

  /// The root's bytes, on every rank.
  virtual std::string broadcast(const std::string& bytes, int root) = 0;

  /// The greatest value any rank gave.
  virtual std::int64_t all_max(std::int64_t value) = 0;

  /// Sends `send[r]` to rank r and receives into `receive[r]`. All spans are of one length, equal on every rank.
  virtual void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive,
                          std::size_t bytes_per_rank) = 0;

  /// A communicator of some of these ranks, numbered as they stand in `ranks`: every rank gives the list it belongs to,
  /// so that together the lists hold each rank once. Errors: core::Error for a list this rank is not in, or in which a
  /// rank stands twice.
  virtual std::unique_ptr<Communicator> split(std::span<const int> ranks) = 0;

  /// Messages between these ranks; not collective. The communicator must outlive it, and has one at a time.
  virtual std::unique_ptr<Transport> transport() = 0;
};

/// The single-process communicator: rank 0 of 1.
std::unique_ptr<Communicator> single();

/// The communicator over MPI_COMM_WORLD. MPI must be initialised, with MPI_THREAD_MULTIPLE where a transport is used;
/// other calls come from one thread at a time.
std::unique_ptr<Communicator> mpi();

}  // namespace braise::comm
