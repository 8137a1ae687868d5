// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "runner/plan/plan.h"
#include "stages/api/descriptor.h"

namespace braise::report {

/// How each job of a plan would fit its resources, by job; nothing for those that have no choice.
std::vector<std::optional<stages::Fit>> fits(const plan::Plan& plan);

/// The same for `braise plan --fit` to show.
std::string fit_text(const plan::Plan& plan);

nlohmann::json to_json(const stages::Fit& fit);

}  // namespace braise::report
