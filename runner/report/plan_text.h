// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "runner/plan/plan.h"

namespace braise::report {

/// Whether a job would run now, and why.
struct Decision {
  bool runs = true;
  std::string why;  ///< "finished in quickstart-20260131-..., unchanged"
};

/// A plan as a table for people. `decisions` are those of the jobs, in order.
std::string plan_table(const plan::Plan& plan, const std::vector<Decision>& decisions);

/// The graph of the jobs in Graphviz's language.
std::string plan_dot(const plan::Plan& plan);

/// How a swept path is called at a job of the given stage: without the stage itself or `vars`, which go without saying.
std::string parameter_name(const std::string& path, const std::string& stage);

/// "optimizer.lr=0.001 width=256": swept values of a job of the given stage.
std::string parameters_text(const nlohmann::json& parameters, const std::string& stage);

}  // namespace braise::report
