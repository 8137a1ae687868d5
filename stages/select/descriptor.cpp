// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>
#include <set>

#include "stages/api/descriptor.h"

namespace braise::select {
namespace {

using nlohmann::json;

void check(const stages::RuleContext& context) {
  const json& candidates = context.config.at("candidates");
  std::set<std::string> names;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::string name = candidates[i].at("name");
    if (names.insert(name).second) continue;
    context.fault("/candidates/" + std::to_string(i) + "/name", "is `" + name + "`, as another candidate's",
                  "give each a name of its own");
  }
  if (context.config.at("keep") > candidates.size()) {
    context.fault("/keep",
                  "is " + context.config.at("keep").dump() + " of " + std::to_string(candidates.size()) + " candidates",
                  "must be at most as many");
  }
}

std::vector<stages::InputPattern> inputs(const json& config) {
  std::vector<stages::InputPattern> patterns;
  const json& candidates = config.at("candidates");
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::string path = candidates[i].at("checkpoint");
    if (path.empty() || path.starts_with("${")) continue;
    const bool is_file = path.ends_with("/manifest.json");
    patterns.push_back(
        {"/candidates/" + std::to_string(i) + "/checkpoint", path + (is_file ? "" : "/manifest.json"), ""});
  }
  return patterns;
}

stages::Estimate estimate(const json& config, const stages::Resources&, const std::vector<stages::InputFile>&,
                          const stages::KnownModels&) {
  stages::Estimate result;
  result.steps = config.at("candidates").size();
  result.step_unit = "candidate";
  return result;
}

}  // namespace

const stages::StageDescriptor& descriptor() {
  static const stages::StageDescriptor descriptor = {
      .kind = "select",
      .version = 1,
      .summary = "Ranks checkpoints by their validation loss and names the best.",
      .reusable = true,
      .devices = {"cpu"},
      .outputs = {{"selected", "artifacts/selected.json",
                   "the names of the best candidates, and what each came to; see schemas/selected.schema.json"}},
      .check = check,
      .inputs = inputs,
      .estimate = estimate,
  };
  return descriptor;
}

}  // namespace braise::select
