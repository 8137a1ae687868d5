// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "kernels/core/error.h"
#include "kernels/core/tier.h"
#include "runner/cli/commands.h"
#include "runner/cli/execute.h"
#include "runner/cli/new_run.h"
#include "runner/cli/tools.h"
#include "runner/journal/archive.h"
#include "runner/report/differences.h"
#include "stages/registry.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const json::json_pointer kTier("/numerics/tier");

/// Inputs that are not what they were: a line each.
std::string changed_inputs(const plan::Plan& plan) {
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
  return text;
}

/// The plan on this machine and so many workers a job (0: as many as it had), on the tiers it had. Errors: UsageError
/// naming what cannot give the same bits.
void adapt(plan::Plan& plan, report::PastRun& original, int workers) {
  std::string faults;
  for (plan::Job& job : plan.jobs) {
    stages::Resources& resources = job.spec.resources;
    resources.workers_per_node = workers > 0 ? workers : resources.ranks();
    resources.nodes = 1;
    const stages::StageDescriptor* const kind = stages::find_kind(job.spec.kind);
    if (kind == nullptr) throw UsageError("there is no stage kind " + job.spec.kind + " in this build");
    const auto fault = [&](std::string_view pointer, const std::string& problem, const std::string& remedy) {
      faults += "\n  " + job.spec.job + ": " + std::string(pointer) + ": " + problem + "; " + remedy;
    };
    if (kind->version != job.spec.kind_version) {
      fault("",
            "this build's stage kind " + job.spec.kind + " is version " + std::to_string(kind->version) +
                ", which gives other outputs than version " + std::to_string(job.spec.kind_version) + " did",
            "use the build that provenance.json names");
    }
    kind->check({job.spec.config, resources, fault});
    job.estimate = kind->estimate(job.spec.config, resources, job.spec.inputs);
    if (!job.spec.config.contains(kTier) || job.spec.config.at(kTier) != "auto") continue;
    json started;
    for (const fs::path& attempt : original.attempts(job.spec.job)) {
      if (json event = journal::started_workers(attempt).event; !event.is_null()) started = std::move(event);
    }
    if (started.is_null()) continue;
    const std::string name = started.at("tiers").at(0);
    const std::optional<core::Tier> tier = core::tier_named(name);
    if (!tier || *tier > core::detected_tier()) {
      fault("/numerics/tier",
            "it was done on instruction-set tier " + name + ", and this processor has " +
                std::string(core::name(core::detected_tier())),
            "other tiers give other bits; use such a processor");
    } else {
      job.spec.config[kTier] = name;
    }
  }
  if (!faults.empty()) throw UsageError("the same bits cannot come out:" + faults);
}

/// Compares losses as they come.
class Comparison {
 public:
  Comparison(report::PastRun& original, const plan::Plan& plan, std::optional<std::int64_t> until) : until_(until) {
    for (const plan::Job& job : plan.jobs) {
      std::vector<telemetry::StepLoss> losses = original.losses(job.spec.job);
      if (!losses.empty()) expected_.emplace(job.spec.job, std::move(losses));
    }
    if (until && expected_.size() != 1) {
      throw UsageError("--until means the steps of one training; this run has losses of " +
                       std::to_string(expected_.size()) + " jobs");
    }
  }

  /// False where there is no need to go on.
  bool take(const std::string& job, const json& line) {
    const auto expected = expected_.find(job);
    if (expected == expected_.end()) return true;
    const std::optional<telemetry::StepLoss> loss = telemetry::step_loss(line);
    if (!loss) return true;
    const auto there = std::ranges::lower_bound(expected->second, loss->step, {}, &telemetry::StepLoss::step);
    if (there != expected->second.end() && there->step == loss->step &&
        telemetry::bits_text(there->loss) != telemetry::bits_text(loss->loss)) {
      return false;
    }
    reached_ = until_ && loss->step >= *until_;
    return !reached_;
  }

  bool reached() const { return reached_; }
  bool expects(const std::string& job) const { return expected_.contains(job); }

 private:
  std::optional<std::int64_t> until_;
  std::map<std::string, std::vector<telemetry::StepLoss>> expected_;  ///< in the order of steps
  bool reached_ = false;
};

enum class Result {
  same,
  different,
  nothing,  ///< there is none to compare
  unproven  ///< what would be compared is gone
};

/// A training: losses and checkpoints, through the last step that both have.
Result compare_training(const std::string& job, report::PastRun& original, report::PastRun& again,
                        std::int64_t& through) {
  const std::vector<telemetry::StepLoss> before = original.losses(job), after = again.losses(job);
  if (before.empty() || after.empty()) return Result::nothing;
  through = std::min(before.back().step, after.back().step);
  const std::vector<fs::path> attempts = original.attempts(job);
  const launch::CommandResult compared =
      run_compare_tool(attempts.front().parent_path().parent_path(), again.run().job_dir(job), through);
  print(job + ": " + compared.out);
  if (compared.status > kRunFailed) throw core::Error("the comparison of " + job + " failed: " + compared.err);
  return compared.status == 0 ? Result::same : Result::different;
}

/// Any other job: the digests of its outputs, if equal inputs give equal outputs.
Result compare_outputs(const plan::Job& job, const journal::JobRecord* before, const journal::JobRecord* after) {
  const std::string& name = job.spec.job;
  if (!stages::find_kind(job.spec.kind)->reusable || before == nullptr || after == nullptr || !before->completion ||
      !after->completion) {
    return Result::nothing;
  }
  for (const auto& [output, files] : before->completion->completed.outputs) {
    // A checkpoint's manifest names the attempt that wrote it, so its file differs each time.
    if (!files.files.empty() && fs::path(files.files.front().path).filename() == "manifest.json") {
      return Result::unproven;
    }
    const auto& others = after->completion->completed.outputs;
    const auto other = others.find(output);
    if (other != others.end() && other->second.digest() == files.digest()) continue;
    print(name + ": the output " + output + " differs: SHA-256 " + files.digest() + " against " +
          (other == others.end() ? "none" : other->second.digest()) + "\n");
    return Result::different;
  }
  print(name + ": identical outputs\n");
  return Result::same;
}

}  // namespace

int rerun(const std::string& name, const fs::path& runs, const RerunArguments& arguments) {
  const fs::path folder = arguments.in.empty() ? runs : arguments.in;
  std::optional<journal::RunDirectory> named;
  if (fs::is_regular_file(name)) {
    try {
      named = journal::unpack_archive(name, folder);
    } catch (const core::Error& error) {
      throw UsageError(error.what());
    }
  } else {
    named = find_run(name, runs);
  }
  report::PastRun original(*named);
  refuse_in_use(original.run());
  plan::Plan plan = read_plan(original.run());
  const std::string changed = changed_inputs(plan);
  if (!changed.empty()) throw UsageError("inputs of " + original.run().id() + " are not what they were:" + changed);
  adapt(plan, original, arguments.workers);
  Comparison comparison(original, plan, arguments.until);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(plan, machine);

  journal::Provenance provenance = own_provenance();
  provenance.rerun_of = original.run().path();
  provenance.sources.emplace_back();
  provenance.sources.back().path = original.run().recipe_file();
  provenance.sources.back().text = io::read_file(original.run().recipe_file());
  const journal::CreatedRun created =
      journal::RunDirectory::create(folder, plan.recipe_name,
                                    {provenance.sources.back().text, io::read_file(original.run().resolved_file()),
                                     plan.to_json().dump(1) + "\n", journal::provenance_text(provenance)});
  const TellsFolder tells(created.run);

  RunArguments how;
  how.fresh = true;  // what an earlier run finished proves nothing
  const schedule::Outcome outcome = execute(
      plan, created.run, created.lock, machine, how,
      [&](const journal::AttemptName& attempt, const json& line) { return comparison.take(attempt.job, line); });

  report::PastRun again(created.run);
  bool same = true, compared = false, proven = true;
  std::optional<std::int64_t> through;
  for (const plan::Job& job : plan.jobs) {
    const std::string& of = job.spec.job;
    Result result = Result::nothing;
    if (comparison.expects(of)) {
      std::int64_t last = 0;
      result = compare_training(of, original, again, last);
      if (result == Result::same) through = std::min(through.value_or(last), last);
    } else {
      result = compare_outputs(job, original.record(of), again.record(of));
    }
    if (result == Result::unproven) {
      print(of + ": what it told of its steps is not here (it was reused from a run that is gone or elsewhere)\n");
      proven = false;
    }
    compared = compared || result == Result::same || result == Result::different;
    if (result != Result::different) continue;
    same = false;
    const std::string workers = report::different_workers(of, original, of, again);
    const std::string made = report::different_provenance(original.run(), created.run);
    print(workers.empty() && made.empty() ? "nothing differs in their provenance\n"
                                          : "what differs in their provenance:\n" + workers + made);
    break;
  }
  if (!same) return kRunFailed;
  if (!compared) {
    print("there was nothing to compare\n");
    return kRunFailed;
  }
  if (outcome != schedule::Outcome::completed && !comparison.reached()) {
    print("the rerun did not come to its end; so far it is identical to the bit\n");
    return kRunFailed;
  }
  if (!proven) {
    print("what could be compared is identical to the bit, and not all could\n");
    return kRunFailed;
  }
  print("identical to the bit" + (through ? " through step " + std::to_string(*through) : std::string()) + "\n");
  return kSuccess;
}

}  // namespace braise::cli
