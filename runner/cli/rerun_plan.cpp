// SPDX-License-Identifier: Apache-2.0
#include "runner/cli/rerun_plan.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/tier.h"
#include "runner/cli/common.h"
#include "stages/registry.h"
#include "stages/shared/io/digest.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const json::json_pointer kTier("/numerics/tier");

/// Attempts whose work the job's result may hold, oldest first: those since the last that began anew.
std::vector<fs::path> contributing(const std::vector<fs::path>& attempts) {
  for (std::size_t i = attempts.size(); i-- > 0;) {
    const std::vector<json> lines = telemetry::read_metrics({attempts[i]});
    if (!lines.empty() && lines.front().value("resume_step", -1) == 0) {
      return {attempts.begin() + static_cast<std::ptrdiff_t>(i), attempts.end()};
    }
  }
  return attempts;
}

/// The tiers that workers told, of all ranks of all these attempts. `fault` is told what cannot be read.
std::set<std::string> tiers_of(const std::vector<fs::path>& attempts,
                               const std::function<void(const std::string& problem)>& fault) {
  std::set<std::string> tiers;
  for (const fs::path& attempt : attempts) {
    const journal::StartedWorkers started = journal::started_workers(attempt);
    if (!started.event.is_null()) {
      for (const std::string& warning : started.warnings) std::fprintf(stderr, "%s\n", warning.c_str());
      const auto told = started.event.at("tiers").get<std::set<std::string>>();
      tiers.insert(told.begin(), told.end());
    } else if (!started.warnings.empty()) {
      fault("which instruction-set tier it was done on cannot be read: " + started.warnings.front());
    } else if (!telemetry::read_losses({attempt}).empty()) {
      fault("the journal has no word of which instruction-set tier " + attempt.string() + " was done on");
    }
  }
  return tiers;
}

/// Pins the tier of a job that had whichever its processors have.
void pin_tier(stages::JobSpec& spec, report::PastRun& original,
              const std::function<void(const std::string& problem, const std::string& remedy)>& fault) {
  const std::vector<fs::path> attempts = original.attempts(spec.job);
  const auto unknown = [&](const std::string& problem) {
    fault(problem, "put back the journal as it was, or make a new run of the recipe");
  };
  std::set<std::string> tiers = tiers_of(attempts, unknown);
  if (tiers.size() > 1) tiers = tiers_of(contributing(attempts), unknown);
  if (tiers.empty()) return;
  if (tiers.size() > 1) {
    std::string names;
    for (const std::string& tier : tiers) names += (names.empty() ? "" : " and ") + tier;
    fault("its workers were on different instruction-set tiers, " + names + ", and those of a rerun are on one",
          "pin `numerics.tier` in a new run of the recipe");
    return;
  }
  const std::optional<core::Tier> tier = core::tier_named(*tiers.begin());
  if (!tier || *tier > core::detected_tier()) {
    fault("it was done on instruction-set tier " + *tiers.begin() + ", and this processor has " +
              std::string(core::name(core::detected_tier())),
          "other tiers give other bits; use such a processor");
    return;
  }
  spec.config[kTier] = *tiers.begin();
}

/// Whether a job builds on one of these.
bool needs_any(const plan::Job& job, const std::set<std::string>& others) {
  const auto is_one = [&](const std::string& name) { return others.contains(name); };
  return std::ranges::any_of(job.needs, is_one) || std::ranges::any_of(job.candidates, is_one) ||
         (job.choice && is_one(job.choice->select));
}

}  // namespace

void refuse_changed_inputs(const plan::Plan& plan, const journal::RunDirectory& run) {
  std::string text;
  std::set<std::string> seen;
  for (const plan::Job& job : plan.jobs) {
    for (const stages::InputFile& input : job.spec.inputs) {
      if (!seen.insert(input.path).second) continue;
      if (!fs::is_regular_file(input.path)) {
        text += "\n  " + input.path + " is not there; it had SHA-256 " + input.sha256;
        continue;
      }
      const std::string now = io::digest_file(input.path).sha256;
      if (now != input.sha256) text += "\n  " + input.path + " has SHA-256 " + now + "; it had " + input.sha256;
    }
  }
  if (!text.empty()) throw UsageError("inputs of " + run.id() + " are not what they were:" + text);
}

void end_at(plan::Plan& plan, report::PastRun& original, std::int64_t step) {
  std::int64_t last = 0;
  std::set<std::string> cut;  // and what builds on these
  std::vector<plan::Job> kept;
  std::string left_out;
  for (plan::Job& job : plan.jobs) {
    const std::vector<telemetry::StepLoss> losses = original.losses(job.spec.job);
    if (!losses.empty()) last = std::max(last, losses.back().step);
    if (needs_any(job, cut) || (!losses.empty() && losses.front().step > step)) {
      cut.insert(job.spec.job);
      left_out += (left_out.empty() ? "" : ", ") + job.spec.job;
      continue;
    }
    const journal::JobRecord* const record = original.record(job.spec.job);
    const bool is_completed = record != nullptr && record->completion;
    if (!losses.empty() && (losses.back().step > step || !is_completed)) {
      cut.insert(job.spec.job);
      job.spec.config["until"] = step;
      if (job.choice) job.choice->until = step;
    }
    kept.push_back(std::move(job));
  }
  const std::string id = original.run().id();
  if (last == 0) throw UsageError("--until means a step of training, and " + id + " has trained none");
  if (step > last) {
    throw UsageError("--until " + std::to_string(step) + " is beyond the last step that " + id +
                     " has trained, which is " + std::to_string(last) + "; give that or an earlier one");
  }
  if (!left_out.empty())
    std::fprintf(stderr, "beyond step %lld, and left out: %s\n", static_cast<long long>(step), left_out.c_str());
  plan.jobs = std::move(kept);
}

void adapt(plan::Plan& plan, report::PastRun& original, int workers) {
  std::string faults;
  for (plan::Job& job : plan.jobs) {
    stages::Resources& resources = job.spec.resources;
    resources.workers_per_node = workers > 0 ? workers : resources.ranks();
    resources.nodes = 1;
    const stages::StageDescriptor* const kind = stages::find_kind(job.spec.kind);
    if (kind == nullptr) throw UsageError("there is no stage kind " + job.spec.kind + " in this build");
    const auto fault = [&](std::string_view pointer, const std::string& problem, const std::string& remedy) {
      faults += "\n  " + job.spec.job + ": " + (pointer.empty() ? "" : std::string(pointer) + ": ") + problem +
                (remedy.empty() ? "" : "; " + remedy);
    };
    if (kind->version != job.spec.kind_version) {
      fault("",
            "this build's stage kind " + job.spec.kind + " is version " + std::to_string(kind->version) +
                ", which gives other outputs than version " + std::to_string(job.spec.kind_version) + " did",
            "use the build that provenance.json names");
    }
    kind->check({job.spec.config, resources, job.models, fault});
    job.estimate = kind->estimate(job.spec.config, resources, job.spec.inputs, job.models);
    if (job.spec.config.contains(kTier) && job.spec.config.at(kTier) == "auto") {
      pin_tier(job.spec, original, [&](const std::string& problem, const std::string& remedy) {
        fault("/numerics/tier", problem, remedy);
      });
    }
  }
  if (!faults.empty()) throw UsageError("the same bits cannot come out:" + faults);
}

}  // namespace braise::cli
