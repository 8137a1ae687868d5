// SPDX-License-Identifier: Apache-2.0
#include "runner/launch/slurm/groups.h"

#include <algorithm>
#include <cassert>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace braise::launch::slurm {
namespace {

/// Where a job stands.
struct Seat {
  std::size_t group = 0;
  int index = 0;
};

class Grouping {
 public:
  Grouping(const plan::Plan& plan, const std::set<std::string>& done, int max_array)
      : plan_(plan), done_(done), max_array_(static_cast<std::size_t>(std::max(max_array, 1))) {}

  std::vector<Group> run() {
    // Within a point, stages stand in an order in which each follows those it needs: the order of their first jobs.
    std::vector<std::string> stages;
    std::map<std::string, std::vector<const plan::Job*>> jobs_of;
    for (const plan::Job& job : plan_.jobs) {
      std::vector<const plan::Job*>& jobs = jobs_of[job.spec.stage];
      if (jobs.empty()) stages.push_back(job.spec.stage);
      jobs.push_back(&job);
    }
    for (const std::string& stage : stages) {
      std::map<std::string, std::vector<const plan::Job*>> alike;
      for (const plan::Job* job : jobs_of[stage]) {
        if (!done_.contains(job->spec.job)) alike[shape(*job)].push_back(job);
      }
      for (const auto& [unused, jobs] : alike) add(jobs);
    }
    return std::move(groups_);
  }

 private:
  std::vector<const Seat*> seats(const std::vector<std::string>& jobs) const {
    std::vector<const Seat*> found;
    for (const std::string& job : jobs) {
      if (const auto seat = seats_.find(job); seat != seats_.end()) found.push_back(&seat->second);
    }
    return found;
  }
  std::vector<const Seat*> needs(const plan::Job& job) const { return seats(job.needs); }
  std::vector<const Seat*> awaited(const plan::Job& job) const { return seats(plan_.awaited(job)); }

  /// Jobs of the same shape ask for the same, and wait for the same groups.
  std::string shape(const plan::Job& job) const {
    std::set<std::size_t> waits_for;
    for (const Seat* seat : needs(job)) waits_for.insert(seat->group);
    for (const Seat* seat : awaited(job)) waits_for.insert(seat->group);
    return nlohmann::json{job.spec.resources.to_json(), job.slurm.to_json(), waits_for}.dump();
  }

  /// The index that a job must have so that each array it waits for has the job it needs at the same one; nothing where
  /// there is none.
  std::optional<int> common_index(const plan::Job& job) const {
    std::optional<int> index;
    std::set<std::size_t> arrays;
    for (const Seat* seat : needs(job)) {
      if (!groups_[seat->group].array) continue;
      if (!arrays.insert(seat->group).second || (index && *index != seat->index)) return std::nullopt;
      index = seat->index;
    }
    return index;
  }

  void add(const std::vector<const plan::Job*>& jobs) {
    std::map<int, const plan::Job*> by_index;
    for (const plan::Job* job : jobs) {
      if (const std::optional<int> index = common_index(*job)) by_index.emplace(*index, job);
    }
    if (jobs.size() > 1 && by_index.size() == jobs.size()) return add_group(by_index, true);
    // Otherwise those go together that need the very same.
    std::map<std::vector<std::string>, std::vector<const plan::Job*>> alike;
    for (const plan::Job* job : jobs) alike[job->needs].push_back(job);
    for (const auto& [unused, same] : alike) {
      for (std::size_t begin = 0; begin < same.size(); begin += max_array_) {
        by_index.clear();
        for (std::size_t i = begin; i < std::min(begin + max_array_, same.size()); ++i) {
          by_index.emplace(static_cast<int>(i - begin), same[i]);
        }
        add_group(by_index, false);
      }
    }
  }

  void add_group(const std::map<int, const plan::Job*>& jobs, bool same_index) {
    const plan::Job& first = *jobs.begin()->second;
    Group group;
    const int number = ++groups_of_[first.spec.stage];
    group.name = first.spec.stage + (number == 1 ? "" : "-" + std::to_string(number));
    group.array = jobs.size() > 1;
    group.resources = first.spec.resources;
    group.slurm = first.slurm;
    add_dependencies(group, needs(first), same_index, false);
    add_dependencies(group, awaited(first), false, true);
    for (const auto& [index, job] : jobs) {
      group.jobs[index] = job->spec.job;
      seats_[job->spec.job] = {groups_.size(), index};
    }
    groups_.push_back(std::move(group));
  }

  void add_dependencies(Group& group, const std::vector<const Seat*>& seats, bool same_index, bool any_end) const {
    std::map<std::size_t, std::set<int>> needed;
    for (const Seat* seat : seats) needed[seat->group].insert(seat->index);
    for (const auto& [earlier, indices] : needed) {
      Dependency dependency{earlier, Dependency::Kind::whole, {}, any_end};
      if (groups_[earlier].array && same_index) {
        dependency.kind = Dependency::Kind::same_index;
      } else if (indices.size() < groups_[earlier].jobs.size()) {
        dependency.kind = Dependency::Kind::some;
        dependency.indices.assign(indices.begin(), indices.end());
      }
      group.after.push_back(std::move(dependency));
    }
  }

  const plan::Plan& plan_;
  const std::set<std::string>& done_;
  const std::size_t max_array_;
  std::map<std::string, Seat> seats_;
  std::map<std::string, int> groups_of_;
  std::vector<Group> groups_;
};

}  // namespace

std::vector<Group> make_groups(const plan::Plan& plan, const std::set<std::string>& done, int max_array) {
  return Grouping(plan, done, max_array).run();
}

}  // namespace braise::launch::slurm
