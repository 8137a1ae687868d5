// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runner/launch/launcher.h"
#include "runner/recipe/site.h"

namespace braise::launch::slurm {

/// The Slurm job that this process is the batch script of, from the environment.
struct Allocation {
  std::string id;     ///< "12", or "12_3" of an array
  std::string array;  ///< the number that sbatch gave: "12"
  int index = 0;      ///< in the array
  int restart = 0;    ///< how often it has been started before
  std::string nodes;  ///< "n[1-2]"
  std::optional<std::int64_t> ends_us;  ///< as it was at the start, where Slurm tells (22.05 does not)
};

/// Errors: core::Error where this is no batch script.
Allocation this_allocation();

/// Launches ranks on the nodes of this Slurm job: by srun where it offers the site's kind of MPI (or the site says so),
/// else by mpirun; in the site's container where it has one. What is printed goes to launch.txt in the attempt's
/// folder. The environment is that of LocalLauncher, with Slurm's own variables, those of MPI and its transports that
/// the site's setup made, and the site's.
///
/// ask_stop sends SIGUSR2, which srun and mpirun pass on. kill ends the whole step: srun by SIGINT, which it takes for
/// an order to end at once.
class AllocationLauncher : public Launcher {
 public:
  /// `nodes` of the allocation, `run_dir` to be seen in a container. Errors: core::Error where neither program is
  /// there.
  AllocationLauncher(const recipe::Site& site, int nodes, std::filesystem::path run_dir);

  std::unique_ptr<Launched> start(const Order& order) override;

 private:
  const recipe::Site& site_;
  const int nodes_;
  const std::filesystem::path run_dir_;
  bool by_srun_ = false;
  std::filesystem::path program_;
};

}  // namespace braise::launch::slurm
