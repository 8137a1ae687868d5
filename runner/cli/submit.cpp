// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "runner/cli/commands.h"
#include "runner/cli/new_run.h"
#include "runner/journal/replay.h"
#include "runner/journal/run_files.h"
#include "runner/launch/environment.h"
#include "runner/launch/slurm/script.h"
#include "runner/report/live.h"
#include "runner/report/status.h"
#include "runner/schedule/submitter.h"

namespace braise::cli {
namespace {
namespace fs = std::filesystem;
namespace slurm = launch::slurm;

recipe::Site read_site(fs::path file) {
  if (file.empty()) file = recipe::user_site_file();
  if (file.empty()) return recipe::default_site();
  stages::Faults faults;
  std::optional<recipe::Site> site = recipe::load_site(file, faults);
  if (!site) {
    print_faults(faults, false);
    throw UsageError("");
  }
  return std::move(*site);
}

fs::path own_program() {
  return fs::read_symlink("/proc/self/exe");
}

void require_slurm() {
  if (launch::find_on_path("sbatch").empty()) {
    throw UsageError("there is no sbatch on PATH: submit on a login node of a Slurm cluster, or use `braise run` here");
  }
}

/// What would be submitted, as text: each script, and the order of sbatch commands.
std::string dry_run_text(const plan::Plan& plan, const fs::path& runs, const recipe::Site& site) {
  // No such folder is made: its name has the time and chance in it.
  const std::string id = plan.recipe_name + "-<time>-<id>";
  const std::vector<slurm::Group> groups = slurm::make_groups(plan, {}, 1000);
  std::string text;
  for (const slurm::Group& group : groups) {
    const std::string comment = slurm::comment_of(plan.recipe_name, 1, group.name);
    text += "==> slurm/1/" + group.name + ".sh\n";
    text += slurm::script_text(group, site, {own_program(), fs::absolute(runs) / id, plan.recipe_name, comment, 1});
    std::string well, any;
    for (const slurm::Dependency& dependency : group.after) {
      const char* how = dependency.kind == slurm::Dependency::Kind::same_index ? "the same index of " : "";
      std::string& after = dependency.any_end ? any : well;
      after += (after.empty() ? "" : ", ") + (how + groups[dependency.group].name);
    }
    if (!well.empty()) text += "==> after " + well + " has ended well\n";
    if (!any.empty()) text += "==> after " + any + " has ended, well or not\n";
    text += "\n";
  }
  return text;
}

void tell_submitted(const std::vector<schedule::Submitted>& submitted, const journal::RunDirectory& run) {
  for (const schedule::Submitted& one : submitted) {
    const std::size_t count = one.group.jobs.size();
    std::fprintf(stderr, "%s: Slurm job %s%s\n", one.group.name.c_str(), one.slurm_job.c_str(),
                 count == 1 ? "" : (", an array of " + std::to_string(count)).c_str());
  }
  if (submitted.empty()) std::fprintf(stderr, "nothing is left to do\n");
  std::fprintf(stderr, "how it stands: braise status %s\n", run.path().c_str());
}

void submit_run(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
                const recipe::Site& site, bool fresh) {
  schedule::Options options;
  options.worker = worker_program();
  options.command = own_command();
  options.fresh = fresh;
  report::LiveDisplay display(stderr, false, 0);
  slurm::Client client;
  client.on_wait = [](const std::string& why) {
    std::fprintf(stderr, "Slurm is not ready, trying again: %s\n", why.c_str());
  };
  tell_submitted(schedule::submit_plan(plan, run, lock, site, client, own_program(), options, display), run);
}

}  // namespace

int submit(const RecipeArguments& recipe, const fs::path& runs, const SubmitArguments& arguments) {
  journal::sweep(runs);
  const Planned planned = plan_recipe(recipe, false);
  const recipe::Site site = read_site(arguments.site);
  if (arguments.dry_run) {
    print(dry_run_text(planned.made.plan, runs, site));
    return kSuccess;
  }
  require_slurm();
  const journal::CreatedRun created = create_run(recipe, planned, runs);
  const TellsFolder tells(created.run);
  submit_run(planned.made.plan, created.run, created.lock, site, arguments.fresh);
  return kSuccess;
}

int resubmit(const journal::RunDirectory& run, const fs::path& site_file) {
  require_slurm();
  const plan::Plan plan = journal::read_plan(run);
  const journal::RunState state = journal::replay(run);
  const int session = state.sessions.back().number;
  const fs::path recorded = run.path() / "slurm" / std::to_string(session) / "site.yaml";
  const recipe::Site site = read_site(site_file.empty() && fs::exists(recorded) ? recorded : site_file);
  const journal::RunLock lock = take_run(run);
  const report::Queue queue = report::ask_queue({run});
  if (!queue.problem.empty()) throw core::Error(queue.problem);
  // A supervisor whose job is done may be in the queue for a moment more.
  const bool all_done = std::ranges::all_of(plan.jobs, [&](const plan::Job& job) {
    const journal::JobState is = state.state_of(job.spec.job);
    return is == journal::JobState::completed || is == journal::JobState::reused;
  });
  for (const slurm::QueueEntry& entry : queue.entries) {
    if (entry.is_alive() && !all_done) {
      throw UsageError("the run " + run.id() + " is still in Slurm's hands (job " + entry.id + " is " + entry.state +
                       "); `braise cancel` ends it");
    }
  }
  const TellsFolder tells(run);
  submit_run(plan, run, lock, site, false);
  return kSuccess;
}

}  // namespace braise::cli
