// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace braise::launch {

/// A core that this process may use.
struct Core {
  int number = 0;            ///< hwloc's logical number among all the machine's cores
  std::vector<int> cpus;     ///< the hardware threads of it that may be used, as the operating system numbers them
  std::vector<int> threads;  ///< the same ones by hwloc's logical number, which mpirun's rank files use
};

/// What of this machine a run may use.
struct Machine {
  std::vector<Core> cores;  ///< by number; at least one
  std::uint64_t memory_bytes = 0;
};

/// Reads this machine: the cores that the process's affinity (hence also cpusets) allows, and the memory there is or
/// that control groups allow, whichever is less. Errors: core::Error.
Machine this_machine();

/// The models of this machine's NVIDIA GPUs, as the driver's nvidia-smi tells them; none where that is not there, or
/// does not answer.
std::vector<std::string> gpu_models();

/// The least memory limit that control groups (version 1 or 2) set on a process; the greatest number where none does.
/// `cgroups` and `mounts` are the texts of /proc/self/cgroup and /proc/self/mountinfo.
std::uint64_t memory_limit(const std::string& cgroups, const std::string& mounts);

}  // namespace braise::launch
