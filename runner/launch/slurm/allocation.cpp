// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/allocation.h"

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <sstream>
#include <string_view>

#include "kernels/core/error.h"
#include "runner/launch/command.h"
#include "runner/launch/environment.h"
#include "runner/launch/processes.h"
#include "runner/launch/program.h"

extern char** environ;

namespace braise::launch::slurm {
namespace fs = std::filesystem;
namespace {

/// Variables that say how ranks find each other and which cluster this is.
constexpr std::string_view kPrefixes[] = {"SLURM_", "SLURMD_", "OMPI_", "PMIX_", "PRTE_", "UCX_", "FI_", "NCCL_"};

constexpr auto kProbePatience = std::chrono::seconds(30);

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::int64_t number(const std::string& text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool offers(const fs::path& srun, const std::string& kind) {
  const CommandResult listed = run_command(srun, {"--mpi=list"}, kept_environment(), {}, kProbePatience);
  // The names stand one a line or behind colons, on either stream.
  std::istringstream words(listed.out + " " + listed.err);
  for (std::string word; words >> word;) {
    if (word == kind || word == kind + ",") return true;
  }
  return false;
}

std::vector<std::string> environment(const Order& order, const recipe::Site& site) {
  std::vector<std::string> variables;
  const auto is_set_by_site = [&](std::string_view entry) {
    return site.environment.contains(std::string(entry.substr(0, entry.find('='))));
  };
  for (std::string& entry : kept_environment()) {
    if (!is_set_by_site(entry) && !entry.starts_with("SLURM_")) variables.push_back(std::move(entry));
  }
  for (char** entry = environ; *entry != nullptr; ++entry) {
    for (const std::string_view prefix : kPrefixes) {
      if (std::string_view(*entry).starts_with(prefix) && !is_set_by_site(*entry)) variables.emplace_back(*entry);
    }
  }
  for (const auto& [name, value] : site.environment) variables.push_back(name + "=" + value);
  variables.push_back(std::string(kMarkVariable) + "=" + order.name);
  if (::geteuid() == 0) {
    variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT=1");
    variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
  }
  return variables;
}

}  // namespace

Allocation this_allocation() {
  Allocation allocation;
  allocation.id = variable("SLURM_JOB_ID");
  if (allocation.id.empty()) throw core::Error("this is not the batch script of a Slurm job: SLURM_JOB_ID is not set");
  allocation.array = allocation.id;
  if (const std::string array = variable("SLURM_ARRAY_JOB_ID"); !array.empty()) {
    allocation.array = array;
    allocation.index = static_cast<int>(number(variable("SLURM_ARRAY_TASK_ID")));
    allocation.id = array + "_" + std::to_string(allocation.index);
  }
  allocation.restart = static_cast<int>(number(variable("SLURM_RESTART_COUNT")));
  allocation.nodes = variable("SLURM_JOB_NODELIST");
  if (const std::int64_t end_s = number(variable("SLURM_JOB_END_TIME")); end_s > 0) {
    allocation.ends_us = end_s * 1'000'000;
  }
  return allocation;
}

AllocationLauncher::AllocationLauncher(const recipe::Site& site, int nodes, fs::path run_dir)
    : site_(site), nodes_(nodes), run_dir_(std::move(run_dir)) {
  const fs::path srun = find_on_path("srun");
  by_srun_ = site.launcher == "srun" || (site.launcher == "auto" && !srun.empty() && offers(srun, site.mpi_kind));
  program_ = by_srun_ ? srun : find_on_path("mpirun");
  if (program_.empty()) {
    throw core::Error(std::string("there is no ") + (by_srun_ ? "srun" : "mpirun") +
                      " on PATH in this Slurm job; the site file's `setup` may load it");
  }
}

std::unique_ptr<Launched> AllocationLauncher::start(const Order& order) {
  const std::string per_node = std::to_string(order.ranks / nodes_);
  const std::string threads = std::to_string(order.threads);
  Program program;
  program.name = by_srun_ ? "srun" : "mpirun";
  program.file = program_;
  program.environment = environment(order, site_);
  std::vector<std::string>& words = program.arguments;
  if (by_srun_) {
    words = {"srun",
             "--mpi=" + site_.mpi_kind,
             "--kill-on-bad-exit=1",
             "--quit-on-interrupt",
             "--nodes=" + std::to_string(nodes_),
             "--ntasks=" + std::to_string(order.ranks),
             "--ntasks-per-node=" + per_node,
             "--cpus-per-task=" + threads,
             "--export=ALL",
             "--job-name=braise"};
    words.insert(words.end(), site_.srun.begin(), site_.srun.end());
    program.kill_signal = SIGINT;
  } else {
    words = {"mpirun", "-n", std::to_string(order.ranks), "--map-by", "ppr:" + per_node + ":node:PE=" + threads};
    for (const std::string& entry : program.environment) {
      if (entry.starts_with("SLURM")) continue;
      words.insert(words.end(), {"-x", entry.substr(0, entry.find('='))});
    }
  }
  if (!site_.container_image.empty()) {
    std::string binds = run_dir_.string();
    for (const std::string& bind : site_.container_bind) binds += "," + bind;
    words.insert(words.end(), {site_.container_runtime, "exec", "--bind", binds, site_.container_image});
  }
  words.insert(words.end(), order.command.begin(), order.command.end());
  program.output = order.attempt_dir / "launch.txt";
  program.mark = order.name;
  program.folders = {order.scratch_dir};
  return launch_program(std::move(program));
}

}  // namespace braise::launch::slurm
