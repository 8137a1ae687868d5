// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runner/plan/plan.h"
#include "runner/recipe/recipe.h"

namespace braise::plan {

/// The files a path or glob names, in order, with digests. On trouble: no files, and `problem` and `remedy` say why.
using FindInputs = std::function<std::vector<stages::InputFile>(const stages::InputPattern& pattern,
                                                                std::string& problem, std::string& remedy)>;

/// What a recipe means: its plan, and the recipe as resolved.
struct Made {
  Plan plan;
  recipe::Recipe first;  ///< the recipe at the first point of its sweep
  std::size_t points = 0;
};

/// Expands a recipe to jobs: a pure function of the document and of what `find_inputs` answers. A stage whose
/// configuration is the same at several points of the sweep is one job. Nothing where there are faults (they are added
/// to `faults`).
std::optional<Made> make_plan(const recipe::Document& document, const FindInputs& find_inputs, stages::Faults& faults);

}  // namespace braise::plan
