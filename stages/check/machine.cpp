// SPDX-License-Identifier: Apache-2.0
#include "stages/check/machine.h"

#include <hwloc.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "kernels/core/error.h"
#include "stages/shared/io/processor.h"
#include "stages/shared/machine/gemm.h"

namespace braise::check {

nlohmann::json describe_host() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw core::Error("hwloc cannot start");
  const std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, decltype(&hwloc_topology_destroy)> topology(
      raw, &hwloc_topology_destroy);
  if (hwloc_topology_load(raw) != 0) core::fail_errno("hwloc cannot tell the machine's topology");

  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) core::fail_errno("cannot tell the host's name");
  const std::string model = io::processor_model();
  return {{"host", name},
          {"cores", hwloc_get_nbobjs_by_type(raw, HWLOC_OBJ_CORE)},
          {"hardware_threads", hwloc_get_nbobjs_by_type(raw, HWLOC_OBJ_PU)},
          // Not hwloc's: its sum over NUMA nodes misses memory that a virtual machine was given later.
          {"memory_bytes", static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                               static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE))},
          {"cpu_model", model.empty() ? nlohmann::json() : nlohmann::json(model)},
          {"instruction_set", machine::instruction_set()}};
}

}  // namespace braise::check
