// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "runner/plan/plan.h"
#include "runner/recipe/recipe.h"

namespace braise::plan {

/// What a successive halving adds to the jobs of its points.
struct Halved {
  std::vector<Job> jobs;  ///< selections and the rungs after the first, in an order in which they can be run
  std::string winner;     ///< the `select` job whose first place is the best of all
};

/// Plans the rungs of a halving. `points` are the jobs of the stage at each point: they become the first rung, and end
/// at its step. Points must ask for the same resources, and train beyond the last rung: else faults, at the mark.
Halved halve(const std::vector<Job*>& points, const recipe::Halving& halving, stages::Faults& faults);

}  // namespace braise::plan
