// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/plan.h"

#include "kernels/core/error.h"

namespace braise::plan {
namespace {

constexpr int kPlanFormat = 2;

nlohmann::json to_json(const Job& job) {
  nlohmann::json links = nlohmann::json::array();
  for (const Link& link : job.links) {
    links.push_back({{"pointer", link.pointer}, {"text", link.text}, {"job", link.job}, {"output", link.output}});
  }
  return {{"spec", job.spec.to_json()},
          {"links", links},
          {"needs", job.needs},
          {"input_pointers", job.input_pointers},
          {"slurm", job.slurm.to_json()},
          {"parameters", job.parameters},
          {"estimate",
           {{"memory_bytes_per_rank", job.estimate.memory_bytes_per_rank},
            {"steps", job.estimate.steps},
            {"step_unit", job.estimate.step_unit}}},
          {"outputs", job.outputs}};
}

Job job_from_json(const nlohmann::json& json) {
  Job job;
  job.spec = stages::JobSpec::from_json(json.at("spec"));
  for (const nlohmann::json& link : json.at("links")) {
    job.links.push_back({link.at("pointer"), link.at("text"), link.at("job"), link.at("output")});
  }
  job.needs = json.at("needs");
  job.input_pointers = json.at("input_pointers");
  job.slurm = recipe::SlurmOptions::from_json(json.at("slurm"));
  job.parameters = json.at("parameters");
  const nlohmann::json& estimate = json.at("estimate");
  job.estimate.memory_bytes_per_rank = estimate.at("memory_bytes_per_rank");
  job.estimate.steps = estimate.at("steps");
  job.estimate.step_unit = estimate.at("step_unit");
  job.outputs = json.at("outputs");
  return job;
}

}  // namespace

const Job* Plan::find(const std::string& name) const {
  for (const Job& job : jobs) {
    if (job.spec.job == name) return &job;
  }
  return nullptr;
}

nlohmann::json Plan::to_json() const {
  nlohmann::json list = nlohmann::json::array();
  for (const Job& job : jobs) list.push_back(plan::to_json(job));
  return {{"plan", kPlanFormat}, {"recipe", recipe_name}, {"seed", seed}, {"jobs", std::move(list)}};
}

Plan Plan::from_json(const nlohmann::json& json) {
  Plan plan;
  try {
    if (json.at("plan") != kPlanFormat) {
      throw core::Error("plan format " + json.at("plan").dump() + " is not the one this build reads (" +
                        std::to_string(kPlanFormat) + ")");
    }
    plan.recipe_name = json.at("recipe");
    plan.seed = json.at("seed");
    for (const nlohmann::json& job : json.at("jobs")) plan.jobs.push_back(job_from_json(job));
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(std::string("not a plan: ") + error.what());
  }
  return plan;
}

}  // namespace braise::plan
