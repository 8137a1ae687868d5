// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/machine.h"

#include <hwloc.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <memory>
#include <sstream>

#include "kernels/core/error.h"
#include "runner/launch/command.h"
#include "runner/launch/environment.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace fs = std::filesystem;
namespace {

/// A driver that is slower to answer is not waited for.
constexpr std::chrono::seconds kGpuPatience{10};

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

/// The number in a limit's file; kNoLimit where it says "max" or cannot be read.
std::uint64_t read_limit(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return kNoLimit;
  try {
    const std::string text = io::read_file(file);
    std::uint64_t limit = kNoLimit;
    std::from_chars(text.data(), text.data() + text.size(), limit);
    return limit;
  } catch (const core::Error&) {
    return kNoLimit;
  }
}

/// The least limit at a group and all those above it, up to where the hierarchy is mounted.
std::uint64_t least_limit(const fs::path& mount, fs::path group, const char* file) {
  std::uint64_t limit = kNoLimit;
  for (;;) {
    limit = std::min(limit, read_limit(mount / group.relative_path() / file));
    if (group.relative_path().empty()) return limit;
    group = group.parent_path();
  }
}

/// The group below the mount's root: inside a container the whole path may be known while only a part of it is mounted.
fs::path below(const std::string& group, const std::string& root) {
  if (root == "/" || !group.starts_with(root)) return group;
  return "/" + group.substr(root.size());
}

struct TopologyDeleter {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};

struct BitmapDeleter {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};

using Topology = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, TopologyDeleter>;
using Bitmap = std::unique_ptr<std::remove_pointer_t<hwloc_bitmap_t>, BitmapDeleter>;

}  // namespace

std::vector<std::string> gpu_models() {
  const fs::path program = find_on_path("nvidia-smi");
  if (program.empty()) return {};
  std::vector<std::string> models;
  try {
    const CommandResult told =
        run_command(program, {"--query-gpu=name", "--format=csv,noheader"}, kept_environment(), {}, kGpuPatience);
    if (told.status != 0) return {};
    std::istringstream lines(told.out);
    for (std::string model; std::getline(lines, model);) models.push_back(model);
  } catch (const core::Error&) {
    // One that cannot be started tells nothing.
  }
  return models;
}

std::uint64_t memory_limit(const std::string& cgroups, const std::string& mounts) {
  std::uint64_t limit = kNoLimit;
  std::istringstream group_lines(cgroups);
  for (std::string line; std::getline(group_lines, line);) {  // "4:memory:/a/b", of version 2 "0::/a/b"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",memory,") == std::string::npos) continue;
    std::istringstream mount_lines(mounts);
    for (std::string mount; std::getline(mount_lines, mount);) {
      // "34 24 0:30 <root> <mount point> rw,nosuid shared:9 - <type> <source> <options>"
      const std::size_t dash = mount.find(" - ");
      if (dash == std::string::npos) continue;
      std::istringstream head(mount.substr(0, dash)), tail(mount.substr(dash + 3));
      std::string skipped, root, point, type, source, options;
      head >> skipped >> skipped >> skipped >> root >> point;
      tail >> type >> source >> options;
      const bool matches =
          unified ? type == "cgroup2" : type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos;
      if (!matches) continue;
      limit = std::min(limit, least_limit(point, below(line.substr(second + 1), root),
                                          unified ? "memory.max" : "memory.limit_in_bytes"));
    }
  }
  return limit;
}

Machine this_machine() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) core::fail_errno("hwloc cannot start");
  const Topology topology(raw);
  if (hwloc_topology_load(topology.get()) != 0) core::fail_errno("hwloc cannot read this machine");
  const Bitmap allowed(hwloc_bitmap_alloc());
  if (hwloc_get_cpubind(topology.get(), allowed.get(), HWLOC_CPUBIND_PROCESS) != 0) {
    hwloc_bitmap_copy(allowed.get(), hwloc_topology_get_allowed_cpuset(topology.get()));
  }
  Machine machine;
  int last_core = -1;
  for (hwloc_obj_t thread = nullptr;
       (thread = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_PU, thread)) != nullptr;) {
    if (!hwloc_bitmap_isset(allowed.get(), thread->os_index)) continue;
    // Some virtual machines show no cores: there each hardware thread counts as one.
    const hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology.get(), HWLOC_OBJ_CORE, thread);
    const int number = static_cast<int>(core == nullptr ? thread->logical_index : core->logical_index);
    if (number != last_core) machine.cores.push_back({number, {}, {}});
    last_core = number;
    machine.cores.back().cpus.push_back(static_cast<int>(thread->os_index));
    machine.cores.back().threads.push_back(static_cast<int>(thread->logical_index));
  }
  if (machine.cores.empty()) throw core::Error("hwloc finds no core that this process may use");
  const std::uint64_t pages = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES));
  machine.memory_bytes =
      std::min(pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)),
               memory_limit(io::read_file("/proc/self/cgroup"), io::read_file("/proc/self/mountinfo")));
  return machine;
}

}  // namespace braise::launch
