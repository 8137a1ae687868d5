// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/plan.h"

#include "kernels/core/error.h"
#include "stages/api/fault.h"

namespace braise::plan {
namespace {

constexpr int kPlanFormat = 3;

nlohmann::json to_json(const Job& job) {
  nlohmann::json links = nlohmann::json::array();
  for (const Link& link : job.links) {
    links.push_back({{"pointer", link.pointer},
                     {"text", link.text},
                     {"job", link.job},
                     {"output", link.output},
                     {"place", link.place}});
  }
  nlohmann::json choice;
  if (job.choice) choice = {{"select", job.choice->select}, {"place", job.choice->place}, {"until", job.choice->until}};
  return {{"spec", job.spec.to_json()},
          {"links", links},
          {"needs", job.needs},
          {"candidates", job.candidates},
          {"choice", choice},
          {"input_pointers", job.input_pointers},
          {"slurm", job.slurm.to_json()},
          {"parameters", job.parameters},
          {"estimate",
           {{"memory_bytes_per_rank", job.estimate.memory_bytes_per_rank},
            {"host_bytes_per_rank", job.estimate.host_bytes_per_rank},
            {"disk_bytes_per_rank", job.estimate.disk_bytes_per_rank},
            {"sent_bytes_per_step", job.estimate.sent_bytes_per_step},
            {"steps", job.estimate.steps},
            {"step_unit", job.estimate.step_unit}}},
          {"outputs", job.outputs}};
}

Job job_from_json(const nlohmann::json& json) {
  Job job;
  job.spec = stages::JobSpec::from_json(json.at("spec"));
  for (const nlohmann::json& link : json.at("links")) {
    job.links.push_back({link.at("pointer"), link.at("text"), link.at("job"), link.at("output"), link.at("place")});
  }
  job.needs = json.at("needs");
  job.candidates = json.at("candidates");
  if (const nlohmann::json& choice = json.at("choice"); !choice.is_null()) {
    job.choice = {choice.at("select"), choice.at("place"), choice.at("until")};
  }
  job.input_pointers = json.at("input_pointers");
  job.slurm = recipe::SlurmOptions::from_json(json.at("slurm"));
  job.parameters = json.at("parameters");
  const nlohmann::json& estimate = json.at("estimate");
  job.estimate.memory_bytes_per_rank = estimate.at("memory_bytes_per_rank");
  job.estimate.host_bytes_per_rank = estimate.at("host_bytes_per_rank");
  job.estimate.disk_bytes_per_rank = estimate.at("disk_bytes_per_rank");
  job.estimate.sent_bytes_per_step = estimate.at("sent_bytes_per_step");
  job.estimate.steps = estimate.at("steps");
  job.estimate.step_unit = estimate.at("step_unit");
  job.outputs = json.at("outputs");
  return job;
}

/// Folders are named so, and a plan may have come with a stranger's archive. Errors: core::Error.
void check_name(const std::string& name) {
  if (name.empty() || name.front() == '.' || name.find_first_of(std::string("/\0", 2)) != std::string::npos) {
    throw core::Error("not a plan: '" + stages::printable(name, 200) + "' is no name of a recipe or a job");
  }
}

}  // namespace

const Job* Plan::find(const std::string& name) const {
  for (const Job& job : jobs) {
    if (job.spec.job == name) return &job;
  }
  return nullptr;
}

const std::vector<std::string>& Plan::awaited(const Job& job) const {
  const Job* select = job.choice ? find(job.choice->select) : nullptr;
  return select == nullptr ? job.candidates : select->candidates;
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
    check_name(plan.recipe_name);
    for (const nlohmann::json& job : json.at("jobs")) {
      plan.jobs.push_back(job_from_json(job));
      check_name(plan.jobs.back().spec.job);
    }
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(std::string("not a plan: ") + error.what());
  }
  return plan;
}

}  // namespace braise::plan
