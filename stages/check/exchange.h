// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/comm/communicator.h"

namespace braise::check {

/// Messages between all pairs of ranks, whose contents tell sender, receiver and position.
class Exchange {
 public:
  Exchange(comm::Communicator& comm, std::size_t message_bytes);

  /// One exchange of all ranks with all. Collective.
  void run();

  /// An exchange whose every byte is checked. Errors: core::Error naming sender, receiver and the first wrong byte.
  /// Collective. `round` makes the contents differ from the round before.
  void verify(std::uint64_t round);

 private:
  comm::Communicator& comm_;
  std::size_t message_bytes_;
  std::vector<std::byte> send_;
  std::vector<std::byte> receive_;
};

}  // namespace braise::check
