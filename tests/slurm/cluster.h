// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/support.h"

namespace braise::test {

/// A Slurm cluster of four virtual nodes (n1 to n4, 8 cores and 4 GPUs each, none of them real) on this machine, made
/// of a munged, a slurmctld and four slurmd of its own, which live as long as this does. Jobs in partition `low` are
/// requeued, after a TERM and ten seconds, where partition `high` wants their nodes. Needs root and the packages
/// slurm-wlm and munge.
class Cluster {
 public:
  /// Why this machine cannot have one; empty where it can.
  static std::string missing();

  Cluster();
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  const std::filesystem::path& folder() const { return folder_.path(); }
  /// The site file that goes with it.
  const std::filesystem::path& site() const { return site_; }
  /// Adds lines to it.
  void add_to_site(const std::string& yaml) const;

  /// Runs a command as a user of the cluster. Names on the left of PATH come from `first_on_path`, if given.
  Finished run(std::vector<std::string> words, const std::filesystem::path& first_on_path = {}) const;
  Finished braise(std::vector<std::string> words, const std::filesystem::path& first_on_path = {}) const;

  /// Ends a daemon at once: "slurmctld", "slurmd.n1".
  void kill(const std::string& daemon) const;
  void start_controller() const;
  void start_node(int number) const;

 private:
  void start(const std::vector<std::string>& words) const;
  void end_all() const;

  TemporaryFolder folder_;
  std::filesystem::path conf_, site_;
};

}  // namespace braise::test
