// SPDX-License-Identifier: Apache-2.0
#include "runner/report/decisions.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "runner/journal/finished.h"
#include "runner/journal/run_directory.h"
#include "runner/journal/run_files.h"
#include "runner/plan/bind.h"
#include "runner/plan/settle.h"
#include "stages/registry.h"

namespace braise::report {
namespace {

/// The latest earlier run of a recipe, where there is one.
struct Earlier {
  std::string run;
  plan::Plan plan;
};

std::optional<Earlier> latest_run_of(const std::string& recipe, const std::filesystem::path& runs_dir) {
  std::vector<journal::RunDirectory> runs = journal::RunDirectory::list(runs_dir);
  for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
    if (!run->id().starts_with(recipe + "-")) continue;
    try {
      plan::Plan plan = journal::read_plan(*run);
      if (plan.recipe_name == recipe) return Earlier{run->id(), std::move(plan)};
    } catch (const core::Error&) {
      // A run of another version, or one that is being removed, explains nothing.
    }
  }
  return std::nullopt;
}

std::string short_value(const nlohmann::json& value) {
  std::string text = value.dump();
  return text.size() > 40 ? text.substr(0, 37) + "..." : text;
}

/// What differs between two specs in what decides the result: "documents \"file\" -> \"line\", seed 1 -> 2".
std::string differences(const stages::JobSpec& before, const stages::JobSpec& now) {
  std::vector<std::string> found;
  if (before.kind_version != now.kind_version) found.push_back("a newer `" + now.kind + "`");
  if (before.seed != now.seed) {
    found.push_back("seed " + std::to_string(before.seed) + " -> " + std::to_string(now.seed));
  }
  const nlohmann::json then_flat = before.config.flatten(), now_flat = now.config.flatten();
  for (const auto& [key, value] : now_flat.items()) {
    const auto old = then_flat.find(key);
    std::string name = key.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    if (old == then_flat.end()) {
      found.push_back(name + " " + short_value(value) + " is new");
    } else if (*old != value) {
      found.push_back(name + " " + short_value(*old) + " -> " + short_value(value));
    }
  }
  for (const auto& [key, value] : then_flat.items()) {
    if (!now_flat.contains(key)) found.push_back(key.substr(1) + " is gone");
  }
  std::map<std::string, std::string> inputs;
  for (const stages::InputFile& input : before.inputs) inputs[input.path] = input.sha256;
  for (const stages::InputFile& input : now.inputs) {
    const auto old = inputs.find(input.path);
    const std::string name = std::filesystem::path(input.path).filename();
    if (old == inputs.end()) {
      found.push_back("input " + name + " is new");
    } else if (old->second != input.sha256) {
      found.push_back("the content of " + name);
    }
  }
  std::string text;
  for (std::size_t i = 0; i < found.size() && i < 3; ++i) text += (text.empty() ? "" : ", ") + found[i];
  if (found.size() > 3) text += " and " + std::to_string(found.size() - 3) + " more";
  return text;
}

std::string why_it_runs(const stages::JobSpec& spec, const std::optional<Earlier>& earlier) {
  if (!earlier) return "new";
  const plan::Job* before = earlier->plan.find(spec.job);
  if (before == nullptr || before->spec.kind != spec.kind) return "new since " + earlier->run;
  const std::string changed = differences(before->spec, spec);
  return changed.empty() ? "not finished in " + earlier->run : "changed since " + earlier->run + ": " + changed;
}

}  // namespace

std::vector<Decision> decide(const plan::Plan& plan, const std::filesystem::path& runs_dir, bool fresh) {
  std::vector<Decision> decisions;
  if (fresh) return {plan.jobs.size(), Decision{true, "--fresh"}};
  const journal::FinishedIndex index(runs_dir);
  const std::optional<Earlier> earlier = latest_run_of(plan.recipe_name, runs_dir);
  std::map<std::string, plan::Completed> known;          ///< outputs of the jobs that would be reused
  std::map<std::string, std::filesystem::path> folders;  ///< and where they are
  const plan::Outcomes outcomes{
      [&](const std::string& name) { return known.contains(name); },
      [&](const std::string& select) { return plan::read_selection(folders.at(select), known.at(select)); }};
  std::string why;
  for (const plan::Job& job : plan.jobs) {
    const auto unknown = std::find_if(job.links.begin(), job.links.end(),
                                      [&](const plan::Link& link) { return !known.contains(link.job); });
    const std::vector<std::string>& awaited = plan.awaited(job);
    const auto open =
        std::find_if(awaited.begin(), awaited.end(), [&](const std::string& name) { return !known.contains(name); });
    if (job.choice && !known.contains(job.choice->select)) {
      decisions.push_back({true, "trains what `" + job.choice->select + "` will select"});
    } else if (open != awaited.end()) {
      decisions.push_back({true, "waits for `" + *open + "`"});
    } else if (!stages::find_kind(job.spec.kind)->reusable) {
      decisions.push_back({true, "it measures"});
    } else if (unknown != job.links.end()) {
      decisions.push_back({true, "reads what `" + unknown->job + "` will leave"});
    } else {
      const std::optional<plan::Job> settled = plan::settle(plan, job, outcomes, why);
      if (!settled) {
        decisions.push_back({true, why});
        continue;
      }
      const stages::JobSpec bound =
          plan::bind(*settled, [&](const std::string& name) -> const plan::Completed& { return known.at(name); });
      std::optional<journal::FinishedJob> finished = index.find(bound.fingerprint);
      if (finished) {
        decisions.push_back({false, "unchanged since " + finished->run});
        folders[job.spec.job] = runs_dir / finished->run / finished->completed.attempt_dir;
        known[job.spec.job] = std::move(finished->completed);
      } else {
        decisions.push_back({true, why_it_runs(job.spec, earlier)});
      }
    }
  }
  return decisions;
}

}  // namespace braise::report
