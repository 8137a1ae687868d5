// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runner/launch/machine.h"
#include "stages/api/job.h"

namespace braise::schedule {

/// What a job holds of the machine while it runs.
struct Share {
  std::vector<launch::Core> cores;
  std::uint64_t memory_bytes = 0;
  bool oversubscribed = false;  ///< it wanted more cores than there are, and has them all
};

/// The machine's cores and memory, dealt out to jobs that run side by side. No core belongs to two jobs at a time.
class Capacity {
 public:
  explicit Capacity(const launch::Machine& machine) : total_(machine), free_(machine) {}

  /// What the job needs, if it is free now.
  std::optional<Share> take(const stages::Resources& resources);
  void give_back(Share share);

  bool any_core_free() const { return !free_.cores.empty(); }
  const launch::Machine& total() const { return total_; }

 private:
  launch::Machine total_, free_;
};

/// The main memory that one rank of a job needs: on a CPU that of its device too.
std::uint64_t memory_of_rank(const stages::Resources& resources);

/// The memory that all ranks of a job need together.
std::uint64_t memory_of(const stages::Resources& resources);

}  // namespace braise::schedule
