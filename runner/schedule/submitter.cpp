// SPDX-License-Identifier: Apache-2.0
#include "runner/schedule/submitter.h"

#include <poll.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "kernels/core/error.h"
#include "runner/journal/event.h"
#include "runner/journal/finished.h"
#include "runner/journal/replay.h"
#include "runner/launch/slurm/script.h"
#include "runner/launch/slurm/submission.h"
#include "runner/plan/bind.h"
#include "runner/plan/settle.h"
#include "runner/schedule/attempt.h"
#include "runner/schedule/records.h"
#include "runner/schedule/reuse.h"
#include "stages/shared/io/digest.h"

namespace braise::schedule {
namespace slurm = launch::slurm;
using journal::AttemptName;
using nlohmann::json;
namespace {

class Submitter {
 public:
  Submitter(const plan::Plan& plan, const journal::RunDirectory& run, const journal::RunLock& lock,
            const recipe::Site& site, const slurm::Client& client, const Options& options, Observer& observer)
      : plan_(plan),
        run_(run),
        holder_(lock.holder()),
        site_(site),
        client_(client),
        options_(options),
        observer_(observer),
        index_(run.runs_dir()),
        writer_(run.journal_dir(), lock.holder().writer) {}

  std::vector<Submitted> run(const std::filesystem::path& program) {
    const journal::RunState before = journal::replay(run_);
    for (const std::string& text : before.warnings) observer_.warning(text);
    const int session = before.sessions.empty() ? 1 : before.sessions.back().number + 1;
    writer_.append({{"event", "runner_started"},
                    {"session", session},
                    {"pid", holder_.pid},
                    {"host", holder_.host},
                    {"command", options_.command}});
    restore(before);
    if (!options_.fresh) reuse(before);
    std::set<std::string> done;
    for (const auto& [job, unused] : done_) done.insert(job);
    std::vector<slurm::Group> groups;
    if (done.size() < plan_.jobs.size()) groups = slurm::make_groups(plan_, done, client_.max_array_size());
    if (groups.empty()) {
      end("completed");
      return {};
    }
    const slurm::Submission submission(run_, session);
    submission.write_site(site_);
    for (const slurm::Group& group : groups) submission.write_group(group, site_, plan_.recipe_name, program);
    submit(submission, std::move(groups));
    end("submitted");
    return std::move(submitted_);
  }

 private:
  void end(const char* outcome) { writer_.append({{"event", "runner_ended"}, {"outcome", outcome}}); }

  /// What earlier runners and supervisors finished.
  void restore(const journal::RunState& before) {
    for (const plan::Job& job : plan_.jobs) {
      const journal::JobRecord* record = before.find(job.spec.job);
      if (record == nullptr || !record->completion) continue;
      const journal::Completion& completion = *record->completion;
      if (const std::string problem = bad_output(run_, job, completion.completed); !problem.empty()) {
        observer_.warning("job " + job.spec.job + " was completed, but " + problem + ": it runs again");
        continue;
      }
      done_[job.spec.job] = completion.completed;
      if (!completion.recorded) {
        record_completed(writer_, completion.attempt, completion.fingerprint, completion.completed);
        if (is_reusable(job.spec.kind))
          index_.add(completion.fingerprint, {run_.id(), job.spec.job, completion.completed});
      }
    }
  }

  /// Takes over equal jobs of other runs. In the order of the plan, so that what one leaves is known to the next.
  void reuse(const journal::RunState& before) {
    for (const plan::Job& job : plan_.jobs) {
      if (done_.contains(job.spec.job) || !is_reusable(job.spec.kind)) continue;
      const bool known = std::all_of(job.needs.begin(), job.needs.end(),
                                     [&](const std::string& needed) { return done_.contains(needed); });
      const std::vector<std::string>& awaited = plan_.awaited(job);
      const bool all_ended =
          std::all_of(awaited.begin(), awaited.end(), [&](const std::string& name) { return done_.contains(name); });
      if (!known || !all_ended) continue;
      const plan::Outcomes outcomes = plan::outcomes_in(run_.path(), [&](const std::string& name) {
        const auto found = done_.find(name);
        return found == done_.end() ? nullptr : &found->second;
      });
      std::string why;
      const std::optional<plan::Job> settled = plan::settle(plan_, job, outcomes, why);
      if (!settled) continue;  // its supervisor will say so
      const stages::JobSpec spec =
          plan::bind(*settled, [&](const std::string& needed) -> const plan::Completed& { return done_.at(needed); });
      const std::optional<journal::FinishedJob> from = index_.find(spec.fingerprint);
      if (!from) continue;
      const journal::JobRecord* record = before.find(job.spec.job);
      const AttemptName name{job.spec.job, record == nullptr ? 1 : record->last_attempt + 1, io::random_hex(6)};
      Reuse reuse(index_, *from, run_.path() / name.path());
      pollfd event{reuse.event_fd(), POLLIN, 0};
      while (!reuse.done()) ::poll(&event, 1, 1000);
      plan::Completed completed{name.path(), from->completed.outputs};
      const bool taken = reuse.result() == Reuse::Result::taken;
      const std::string bad = taken ? bad_output(run_, job, completed) : reuse.problem();
      if (!bad.empty()) {
        observer_.warning("job " + job.spec.job + " is run, because what " + from->run +
                          " left of it cannot be reused: " + bad);
        index_.remove(spec.fingerprint);
        continue;
      }
      record_reused(writer_, name, spec.fingerprint, completed, *from);
      index_.add(spec.fingerprint, {run_.id(), job.spec.job, completed});
      observer_.job_ended(job.spec.job, journal::JobState::reused, from->run);
      done_[job.spec.job] = std::move(completed);
    }
  }

  /// What sbatch --dependency is given; empty where the group waits for none.
  std::string dependency_text(const slurm::Group& group) const {
    std::string after, same, any;
    for (const slurm::Dependency& dependency : group.after) {
      const std::string& id = submitted_[dependency.group].slurm_job;
      std::string& waits = dependency.any_end ? any : after;
      if (dependency.kind == slurm::Dependency::Kind::same_index) same += ":" + id;
      if (dependency.kind == slurm::Dependency::Kind::whole) waits += ":" + id;
      for (const int index : dependency.indices) waits += ":" + id + "_" + std::to_string(index);
    }
    std::string text;
    const auto add = [&](const char* how, const std::string& ids) {
      if (!ids.empty()) text += (text.empty() ? "" : ",") + (how + ids);
    };
    add("afterok", after);
    add("aftercorr", same);
    add("afterany", any);
    return text;
  }

  void submit(const slurm::Submission& submission, std::vector<slurm::Group> groups) {
    try {
      for (slurm::Group& group : groups) {
        const std::string id = client_.submit(run_.path(), submission.script(group.name),
                                              submission.comment(group.name), dependency_text(group),
                                              slurm::output_option(group, run_.path(), submission.number()));
        const std::string settled = submission.settle_id(group.name, id);
        if (settled != id) client_.cancel({id}, false);  // made twice by a lost answer: the first to start counts
        json jobs = json::array(), indices = json::array();
        for (const auto& [index, job] : group.jobs) {
          jobs.push_back(job);
          if (group.array) indices.push_back(index);
        }
        writer_.append({{"event", "group_submitted"},
                        {"group", group.name},
                        {"slurm_job", settled},
                        {"jobs", std::move(jobs)},
                        {"indices", std::move(indices)}});
        submitted_.push_back({std::move(group), settled});
      }
    } catch (const core::Error&) {
      std::vector<std::string> ids;
      for (const Submitted& one : submitted_) ids.push_back(one.slurm_job);
      writer_.append({{"event", "stop_requested"},
                      {"mode", journal::to_string(journal::StopMode::stop)},
                      {"runner", writer_.name()}});
      try {
        client_.cancel(ids, false);
      } catch (const core::Error& error) {
        observer_.warning(std::string("jobs that were submitted could not be cancelled: ") + error.what());
      }
      end("failed");
      throw;
    }
  }

  const plan::Plan& plan_;
  const journal::RunDirectory& run_;
  const journal::Holder& holder_;
  const recipe::Site& site_;
  const slurm::Client& client_;
  const Options& options_;
  Observer& observer_;
  journal::FinishedIndex index_;
  journal::Writer writer_;
  std::map<std::string, plan::Completed> done_;
  std::vector<Submitted> submitted_;
};

}  // namespace

std::vector<Submitted> submit_plan(const plan::Plan& plan, const journal::RunDirectory& run,
                                   const journal::RunLock& lock, const recipe::Site& site, const slurm::Client& client,
                                   const std::filesystem::path& program, const Options& options, Observer& observer) {
  return Submitter(plan, run, lock, site, client, options, observer).run(program);
}

}  // namespace braise::schedule
