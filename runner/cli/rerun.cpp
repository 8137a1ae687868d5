// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/execute.h"
#include "runner/cli/new_run.h"
#include "runner/cli/rerun_plan.h"
#include "runner/cli/tools.h"
#include "runner/journal/run_files.h"
#include "runner/report/differences.h"
#include "runner/report/format.h"
#include "stages/registry.h"
#include "stages/shared/io/file.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// The run that is repeated. One that was unpacked for it goes again with this, unless it is kept.
class Repeated {
 public:
  Repeated(const std::string& name, const fs::path& runs, const fs::path& in) {
    if (!fs::is_regular_file(name)) {
      run_ = find_run(name, runs);
      return;
    }
    for (fs::path above = fs::absolute(in); !fs::exists(above); above = above.parent_path()) made_.push_back(above);
    const journal::Unpacked unpacked = unpack_checked(name, in);
    run_ = unpacked.run;
    is_temporary_ = unpacked.is_new;
  }
  ~Repeated() {
    if (!is_temporary_) return;
    std::error_code ignored;
    fs::remove_all(run_->path(), ignored);
    for (const fs::path& folder : made_) fs::remove(folder, ignored);  // if it is empty
  }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  const journal::RunDirectory& run() const { return *run_; }
  void keep() { is_temporary_ = false; }

 private:
  std::optional<journal::RunDirectory> run_;
  bool is_temporary_ = false;
  std::vector<fs::path> made_;  ///< folders that were made for it, the innermost first
};

/// Holds losses against those of the original as they come.
class LossWatch {
 public:
  LossWatch(report::PastRun& original, const plan::Plan& plan) {
    for (const plan::Job& job : plan.jobs) {
      std::vector<telemetry::StepLoss> losses = original.losses(job.spec.job);
      if (!losses.empty()) expected_.emplace(job.spec.job, std::move(losses));
    }
  }

  /// False where the loss of a step differs.
  bool take(const std::string& job, const json& line) const {
    const auto expected = expected_.find(job);
    if (expected == expected_.end()) return true;
    const std::optional<telemetry::StepLoss> loss = telemetry::step_loss(line);
    if (!loss) return true;
    const auto there = std::ranges::lower_bound(expected->second, loss->step, {}, &telemetry::StepLoss::step);
    return there == expected->second.end() || there->step != loss->step ||
           telemetry::bits_text(there->loss) == telemetry::bits_text(loss->loss);
  }

 private:
  std::map<std::string, std::vector<telemetry::StepLoss>> expected_;  ///< in the order of steps
};

enum class Result {
  same,
  different,
  nothing,  ///< there is none to compare
  unproven  ///< what would be compared is gone
};

/// What the comparison of a job came to.
struct Compared {
  Result result = Result::nothing;
  std::string text;           ///< for people; empty where there was nothing to compare
  std::int64_t through = -1;  ///< of a training that is the same, the last step that both have
};

/// A training: losses and checkpoints, through the last step that both have.
Compared compare_training(const std::string& job, report::PastRun& original, report::PastRun& again) {
  const std::vector<telemetry::StepLoss> before = original.losses(job), after = again.losses(job);
  if (before.empty() || after.empty()) return {};
  const std::int64_t through = std::min(before.back().step, after.back().step);
  const fs::path attempts = original.attempts(job).front().parent_path();
  const launch::CommandResult compared = run_compare_tool(attempts.parent_path(), again.run().job_dir(job), through);
  if (compared.status > kRunFailed) throw core::Error("the comparison of " + job + " failed: " + compared.err);
  if (compared.status == kRunFailed) return {Result::different, compared.out, -1};
  return {Result::same, compared.out, through};
}

/// Any other job: the digests of its outputs, if equal inputs give equal outputs.
Compared compare_outputs(const plan::Job& job, const journal::JobRecord* before, const journal::JobRecord* after) {
  if (!stages::find_kind(job.spec.kind)->reusable || before == nullptr || after == nullptr || !before->completion ||
      !after->completion) {
    return {};
  }
  for (const auto& [output, files] : before->completion->completed.outputs) {
    // A checkpoint's manifest names the attempt that wrote it, so its file differs each time.
    if (!files.files.empty() && fs::path(files.files.front().path).filename() == "manifest.json") {
      return {Result::unproven,
              "what it told of its steps is not here (it was reused from a run that is gone or elsewhere)\n", -1};
    }
    const auto& others = after->completion->completed.outputs;
    const auto other = others.find(output);
    if (other != others.end() && other->second.digest() == files.digest()) continue;
    return {Result::different,
            "the output " + output + " differs: SHA-256 " + files.digest() + " against " +
                (other == others.end() ? "none" : other->second.digest()) + "\n",
            -1};
  }
  return {Result::same, "identical outputs\n", -1};
}

/// What all comparisons came to.
struct Findings {
  std::string different;               ///< the first job that is, and how, in a line; empty: none
  bool compared = false;               ///< some job was
  std::string unproven;                ///< the jobs
  std::int64_t least = -1, most = -1;  ///< the last steps of trainings that are the same

  /// " through step 8"; "" without a training.
  std::string through() const {
    if (most < 0) return "";
    return least == most
               ? " through step " + std::to_string(most)
               : " through the last steps of all trainings, " + std::to_string(least) + " to " + std::to_string(most);
  }
};

/// Compares job by job, and prints what is found, up to the first that differs.
Findings compare_jobs(const plan::Plan& plan, report::PastRun& original, report::PastRun& again) {
  Findings findings;
  for (const plan::Job& job : plan.jobs) {
    const std::string& name = job.spec.job;
    const Compared compared = original.losses(name).empty()
                                  ? compare_outputs(job, original.record(name), again.record(name))
                                  : compare_training(name, original, again);
    if (!compared.text.empty()) print(name + ": " + compared.text);
    findings.compared = findings.compared || compared.result == Result::same || compared.result == Result::different;
    if (compared.result == Result::unproven) findings.unproven += (findings.unproven.empty() ? "" : ", ") + name;
    if (compared.through >= 0) {
      findings.least = findings.least < 0 ? compared.through : std::min(findings.least, compared.through);
      findings.most = std::max(findings.most, compared.through);
    }
    if (compared.result != Result::different) continue;
    findings.different = name + ": " + compared.text.substr(0, compared.text.find_first_of("\n"));
    if (findings.different.ends_with(':')) findings.different.pop_back();
    const std::string provenance = report::different_workers(name, original, name, again) +
                                   report::different_provenance(original.run(), again.run());
    print(provenance.empty() ? "nothing differs in their provenance\n"
                             : "what differs in their provenance:\n" + provenance);
    break;
  }
  return findings;
}

/// With less than this, a worker may have found no place to tell why it failed.
constexpr std::uintmax_t kLittleSpace = 1 << 20;

/// Why jobs of a run are not done: "pretrain failed: ...".
std::string unfinished(const plan::Plan& plan, const report::PastRun& run) {
  std::string text;
  for (const plan::Job& job : plan.jobs) {
    const journal::JobRecord* const record = run.record(job.spec.job);
    if (record == nullptr || record->state != journal::JobState::failed) continue;
    text += (text.empty() ? "" : "; ") + job.spec.job + " failed: " + record->reason;
  }
  if (text.empty()) text = "it was stopped";
  const fs::path folder = run.run().runs_dir();
  const std::uintmax_t left = fs::space(folder).available;
  if (left < kLittleSpace) text += "; " + report::bytes_text(left) + " left on the disk of " + folder.string();
  return text;
}

/// Errors: UsageError: a run may come from anywhere.
plan::Plan read_given_plan(const journal::RunDirectory& run) {
  try {
    return journal::read_plan(run);
  } catch (const core::Error& error) {
    throw UsageError(run.plan_file().string() + ": " + error.what());
  }
}

/// Tells before hours are spent what the result will not be: that another build is at work, and what was never done.
void tell_limits(const plan::Plan& plan, const report::PastRun& original) {
  const std::string id = original.run().id();
  const std::string differences = report::different_build(original.run());
  if (!differences.empty())
    std::fprintf(stderr, "another build than this made %s:\n%s", id.c_str(), differences.c_str());
  std::string undone;
  for (const plan::Job& job : plan.jobs) {
    const journal::JobRecord* const record = original.record(job.spec.job);
    if (record == nullptr || !record->completion) undone += (undone.empty() ? "" : ", ") + job.spec.job;
  }
  if (!undone.empty()) {
    std::fprintf(stderr, "%s has not completed %s: compared is what there is\n", id.c_str(), undone.c_str());
  }
}

}  // namespace

int rerun(const std::string& name, const fs::path& runs, const RerunArguments& arguments) {
  const fs::path folder = arguments.in.empty() ? runs : arguments.in;
  Repeated repeated(name, runs, folder);
  report::PastRun original(repeated.run());
  refuse_in_use(original.run());
  refuse_edited(original.run());
  plan::Plan plan = read_given_plan(original.run());
  refuse_changed_inputs(plan, original.run());
  if (arguments.until) end_at(plan, original, *arguments.until);
  adapt(plan, original, arguments.workers);
  const launch::Machine machine = launch::this_machine();
  refuse_impossible(plan, machine);
  tell_limits(plan, original);

  journal::Provenance provenance = own_provenance();
  journal::take_origin(provenance, original.run());
  provenance.rerun_of = original.run().path();
  const journal::CreatedRun created =
      create_run(folder, plan.recipe_name,
                 {io::read_file(original.run().recipe_file()), io::read_file(original.run().resolved_file()),
                  plan.to_json().dump(1) + "\n", ""},
                 provenance);
  repeated.keep();
  print(created.run.path().string() + "\n");

  RunArguments how;
  how.fresh = true;  // what an earlier run finished proves nothing
  const LossWatch watch(original, plan);
  std::string why;  // it did not come to its end
  try {
    const schedule::Outcome outcome =
        execute(plan, created.run, created.lock, machine, how,
                [&](const journal::AttemptName& attempt, const json& line) { return watch.take(attempt.job, line); });
    if (outcome != schedule::Outcome::completed) why = unfinished(plan, report::PastRun(created.run));
  } catch (const core::Error& error) {
    why = error.what();
  }

  report::PastRun again(created.run);
  const Findings findings = compare_jobs(plan, original, again);
  if (!findings.different.empty()) {
    print("not identical: " + findings.different + "\n");
  } else if (!why.empty()) {
    print("not proven: the rerun did not come to its end (" + why + "); " +
          (findings.compared ? "so far it is identical to the bit" + findings.through()
                             : "there was nothing to compare") +
          "\n");
  } else if (!findings.compared) {
    print("not proven: there was nothing to compare\n");
  } else if (!findings.unproven.empty()) {
    print("not proven: what could be compared is identical to the bit" + findings.through() + ", and " +
          findings.unproven + " could not\n");
  } else {
    print("identical to the bit" + findings.through() + "\n");
    return kSuccess;
  }
  return kRunFailed;
}

}  // namespace braise::cli
