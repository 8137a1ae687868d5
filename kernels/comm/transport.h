// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace braise::comm {

/// Messages between two ranks of a communicator, which do not block: what Collectives is made of. Messages from one
/// rank to another with one tag arrive in the order they were sent. A Transport and its messages are used by one thread
/// at a time, which may be another than the communicator's.
class Transport {
 public:
  /// A message on its way. Destroying it before it has arrived gives it up: what it carries is then undefined.
  class Message {
   public:
    virtual ~Message() = default;

    /// Whether the bytes have left (of a message sent) or are there (of one received); drives it on.
    /// Errors: core::Error; for a message received also where it is not as long as was asked.
    virtual bool done() = 0;
  };

  virtual ~Transport() = default;

  /// The bytes must stay as they are until the message is done. At most kMostBytes. `tag`: 0 to kMostTag.
  virtual std::unique_ptr<Message> send(int to, int tag, std::span<const std::byte> bytes) = 0;
  virtual std::unique_ptr<Message> receive(int from, int tag, std::span<std::byte> bytes) = 0;

  static constexpr std::size_t kMostBytes = std::size_t{1} << 30;  // MPI counts are ints
  static constexpr int kMostTag = (1 << 30) - 1;
};

}  // namespace braise::comm
