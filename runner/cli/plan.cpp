// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "runner/cli/commands.h"
#include "runner/report/decisions.h"
#include "runner/report/fit_text.h"
#include "runner/report/plan_text.h"

namespace braise::cli {

int validate(const RecipeArguments& arguments, bool json) {
  stages::Faults faults;
  const std::optional<recipe::Document> document = recipe::load(arguments.recipe, arguments.overrides, faults);
  std::optional<plan::Made> made;
  if (document) {
    // Whether the inputs are there is a question for the machine that runs the recipe.
    made = plan::make_plan(
        *document,
        [](const stages::InputPattern&, std::string&, std::string&) { return std::vector<stages::InputFile>(); },
        faults);
  }
  if (!faults.empty() || !made) {
    print_faults(faults, json);
    return kBadInput;
  }
  if (json) {
    print(nlohmann::json{{"faults", nlohmann::json::array()}}.dump(2) + "\n");
    return kSuccess;
  }
  const auto counted = [](std::size_t count, const char* what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
  };
  print(arguments.recipe.string() + ": valid, " + counted(made->first.stages.size(), "stage") + ", " +
        counted(made->plan.jobs.size(), "job") + "\n");
  return kSuccess;
}

int plan(const RecipeArguments& arguments, const std::filesystem::path& runs, PlanFormat format, bool fresh, bool fit) {
  const Planned planned = plan_recipe(arguments, format == PlanFormat::json);
  const plan::Plan& plan = planned.made.plan;
  if (format == PlanFormat::dot) {
    print(report::plan_dot(plan));
    return kSuccess;
  }
  const std::vector<report::Decision> decisions = report::decide(plan, runs, fresh);
  if (fit && format == PlanFormat::table) {
    print(report::fit_text(plan));
    return kSuccess;
  }
  if (format == PlanFormat::table) {
    print(report::plan_table(plan, decisions));
    return kSuccess;
  }
  nlohmann::json json = plan.to_json();
  for (std::size_t i = 0; i < decisions.size(); ++i) {
    json["jobs"][i]["decision"] = {{"runs", decisions[i].runs}, {"why", decisions[i].why}};
  }
  if (fit) {
    const std::vector<std::optional<stages::Fit>> fits = report::fits(plan);
    for (std::size_t i = 0; i < fits.size(); ++i) {
      if (fits[i]) json["jobs"][i]["fit"] = report::to_json(*fits[i]);
    }
  }
  print(json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  return kSuccess;
}

}  // namespace braise::cli
