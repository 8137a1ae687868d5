// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/local.h"

#include <unistd.h>

#include <cassert>

#include "kernels/core/error.h"
#include "runner/launch/environment.h"
#include "runner/launch/processes.h"
#include "runner/launch/program.h"
#include "stages/shared/io/file.h"

namespace braise::launch {
namespace fs = std::filesystem;
namespace {

/// Where Open MPI keeps its files: beside the worker's scratch, which the worker itself may empty while MPI is still
/// up.
fs::path mpi_folder(const Order& order) {
  return order.scratch_dir.string() + ".mpi";
}

std::vector<std::string> environment(const Order& order) {
  std::vector<std::string> variables = kept_environment();
  const auto set = [&variables](const std::string& name, const std::string& value) {
    variables.push_back(name + "=" + value);
  };
  set(kMarkVariable, order.name);
  const std::string folder = mpi_folder(order).string();
  set("TMPDIR", folder);
  for (const char* parameter : {"orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory",
                                "osc_rdma_backing_directory", "shmem_mmap_backing_file_base_dir"}) {
    set(std::string("OMPI_MCA_") + parameter, folder);
  }
  if (::geteuid() == 0) {
    set("OMPI_ALLOW_RUN_AS_ROOT", "1");
    set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return variables;
}

/// "rank 0=localhost slot=4,5" for each rank: hardware threads by hwloc's logical number. Unlike --cpu-set or an
/// inherited affinity, a rank file works together with several threads a rank, and binds exactly what it names.
std::string rank_file(const Order& order) {
  std::string text;
  for (int rank = 0; rank < order.ranks; ++rank) {
    std::string slots;
    for (int thread = 0; thread < order.threads; ++thread) {
      for (const int slot : order.cores[static_cast<std::size_t>(rank * order.threads + thread)].threads) {
        slots += (slots.empty() ? "" : ",") + std::to_string(slot);
      }
    }
    text += "rank " + std::to_string(rank) + "=localhost slot=" + slots + "\n";
  }
  return text;
}

}  // namespace

LocalLauncher::LocalLauncher() : mpirun_(find_on_path("mpirun")) {
  if (mpirun_.empty()) throw core::Error("there is no mpirun on PATH; Braise needs Open MPI to run jobs");
}

std::unique_ptr<Launched> LocalLauncher::start(const Order& order) {
  assert(order.cores.empty() || order.cores.size() == static_cast<std::size_t>(order.ranks * order.threads));
  Program program;
  program.name = "mpirun";
  program.file = mpirun_;
  program.arguments = {"mpirun", "-n", std::to_string(order.ranks)};
  program.folders = {order.scratch_dir, mpi_folder(order)};
  if (order.cores.empty()) {
    program.arguments.insert(program.arguments.end(), {"--oversubscribe", "--bind-to", "none"});
  } else {
    const fs::path file = order.attempt_dir / "ranks.txt";
    io::write_file_durably(file, rank_file(order));
    program.arguments.insert(program.arguments.end(), {"--use-hwthread-cpus", "--rankfile", file.string()});
  }
  program.arguments.insert(program.arguments.end(), order.command.begin(), order.command.end());
  program.environment = environment(order);
  program.output = order.attempt_dir / "mpirun.txt";
  program.mark = order.name;
  return launch_program(std::move(program));
}

}  // namespace braise::launch
