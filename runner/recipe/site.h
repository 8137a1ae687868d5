// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/api/fault.h"

namespace braise::recipe {

/// How jobs are submitted on one cluster. The keys and their meaning: schemas/site.schema.json. What is typed here as
/// an option's value holds no blanks, quotes, line breaks or leading dashes: the schema sees to that.
struct Site {
  /// What may be different for jobs on GPUs.
  struct Place {
    std::string account, partition, qos, reservation, constraint, exclude;
  };
  Place cpu, cuda;
  std::string gpus;  ///< "gres", "gpus-per-node", "none"
  bool memory = true;
  std::string mail_user, mail_events;
  std::string scratch;  ///< on each node; empty: in the run's folder
  bool preflight = false, exclude_failed = false;
  std::map<std::string, std::string> environment;
  std::vector<std::string> setup, teardown;  ///< lines of shell, the user's own
  std::vector<std::string> sbatch, srun;     ///< options
  std::string launcher;                      ///< "auto", "srun", "mpirun"
  std::string mpi_kind;
  std::string container_image, container_runtime;
  std::vector<std::string> container_bind;
  std::string source;       ///< the file it was read from; empty: the built-in defaults
  nlohmann::json resolved;  ///< the whole as meant, every default filled in: itself a site file

  const Place& place(const std::string& device) const { return device == "cuda" ? cuda : cpu; }
};

/// Reads a site file. Nothing where there are faults (they are added to `faults`).
std::optional<Site> load_site(const std::filesystem::path& path, stages::Faults& faults);

/// The user's site file, `braise/site.yaml` in $XDG_CONFIG_HOME or ~/.config; empty where there is none.
std::filesystem::path user_site_file();

/// What holds without any file.
Site default_site();

}  // namespace braise::recipe
