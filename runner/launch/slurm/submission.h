// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "runner/journal/run_directory.h"
#include "runner/launch/slurm/groups.h"
#include "runner/recipe/site.h"

namespace braise::launch::slurm {

/// What a submission leaves in the run's folder, in slurm/<number>/: the site file, a script and a list of jobs for
/// each group, each written once. `number` is that of the runner's session.
class Submission {
 public:
  Submission(const journal::RunDirectory& run, int number) : run_(run), number_(number) {}

  int number() const { return number_; }
  std::filesystem::path folder() const { return run_.path() / "slurm" / std::to_string(number_); }
  std::filesystem::path script(const std::string& group) const { return folder() / (group + ".sh"); }
  std::string comment(const std::string& group) const;

  void write_site(const recipe::Site& site) const;
  void write_group(const Group& group, const recipe::Site& site, const std::string& recipe,
                   const std::filesystem::path& program) const;

  /// Errors: core::Error where it is missing or damaged.
  recipe::Site read_site() const;
  std::map<int, std::string> read_jobs(const std::string& group) const;

  /// Makes `id` the Slurm job that does a group's work, unless there is one already; gives the one that is. Of two that
  /// a lost answer has brought into being, only one so does anything.
  std::string settle_id(const std::string& group, const std::string& id) const;

 private:
  const journal::RunDirectory run_;
  const int number_;
};

}  // namespace braise::launch::slurm
