// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "runner/plan/plan.h"

namespace braise::launch::slurm {

/// What a group waits for: that jobs of an earlier one have ended, well unless it says otherwise.
struct Dependency {
  enum class Kind {
    whole,       ///< all jobs of the group
    same_index,  ///< each job waits for the one of its own index
    some         ///< the jobs of the given indices
  };
  std::size_t group = 0;  ///< its place among the groups
  Kind kind = Kind::whole;
  std::vector<int> indices;
  bool any_end = false;  ///< also those that failed
};

/// Jobs that are submitted together: a batch job, or an array of them. All are of one stage and ask for the same.
struct Group {
  std::string name;                 ///< "pretrain", or "pretrain-2": unlike any other of its submission
  std::map<int, std::string> jobs;  ///< by index; a single job has index 0
  bool array = false;
  stages::Resources resources;
  recipe::SlurmOptions slurm;
  std::vector<Dependency> after;
};

/// Puts jobs together, those of `done` left out, in an order in which every group follows those it waits for. The
/// points of a sweep become arrays of at most `max_array` jobs; where each point of one array needs its own point of
/// another, both have the same indices.
std::vector<Group> make_groups(const plan::Plan& plan, const std::set<std::string>& done, int max_array);

}  // namespace braise::launch::slurm
