// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/settle.h"

#include <algorithm>
#include <cassert>

#include "kernels/core/error.h"
#include "stages/shared/io/file.h"

namespace braise::plan {
namespace {

constexpr char kContinue[] = "/continue_from";

class Settler {
 public:
  Settler(const Plan& plan, const Outcomes& outcomes, std::string& why) : plan_(plan), outcomes_(outcomes), why_(why) {}

  std::optional<Job> settle(Job job) {
    if (job.choice && !choose(job)) return std::nullopt;
    for (Link& link : job.links) {
      if (link.place < 0) continue;
      const std::optional<std::string> chosen = chosen_at(link.job, link.place);
      if (!chosen) return std::nullopt;
      link.job = *chosen;
      link.place = -1;
    }
    const auto is_missing = [&](const Link& link) {
      const bool candidate = std::binary_search(job.candidates.begin(), job.candidates.end(), link.job);
      return candidate && !outcomes_.is_completed(link.job);
    };
    const std::size_t before = job.links.size();
    for (const Link& link : job.links) {
      if (is_missing(link)) job.spec.config[nlohmann::json::json_pointer(link.pointer)] = "";
    }
    std::erase_if(job.links, is_missing);
    if (before > 0 && job.links.empty()) {
      why_ = "none of the " + std::to_string(job.candidates.size()) + " jobs to select from is completed";
      return std::nullopt;
    }
    return job;
  }

 private:
  std::optional<std::string> chosen_at(const std::string& select, int place) {
    const std::vector<std::string> chosen = outcomes_.selected(select);
    if (static_cast<std::size_t>(place) >= chosen.size()) {
      why_ = "`" + select + "` had no more than " + std::to_string(chosen.size()) + " to select";
      return std::nullopt;
    }
    const std::string& name = chosen[static_cast<std::size_t>(place)];
    if (plan_.find(name) == nullptr) throw core::Error("`" + select + "` selected `" + name + "`, which is no job");
    if (outcomes_.is_completed(name)) return name;
    why_ = "`" + name + "`, which `" + select + "` selected, is not completed";
    return std::nullopt;
  }

  /// Makes it the job of the point that was chosen.
  bool choose(Job& job) {
    const std::optional<std::string> name = chosen_at(job.choice->select, job.choice->place);
    if (!name) return false;
    const Job* found = plan_.find(*name);
    std::optional<Job> point = settle(*found);
    if (!point) return false;
    job.spec.config = std::move(point->spec.config);
    job.spec.seed = point->spec.seed;
    job.spec.inputs = std::move(point->spec.inputs);
    job.input_pointers = std::move(point->input_pointers);
    job.parameters = std::move(point->parameters);
    job.links = std::move(point->links);
    std::erase_if(job.links, [](const Link& link) { return link.pointer == kContinue; });
    const std::string text = "${stages." + found->spec.stage + ".checkpoint}";
    job.links.push_back({kContinue, text, *name, "checkpoint"});
    job.spec.config["continue_from"] = text;
    job.spec.config["until"] = job.choice->until;
    job.choice.reset();
    return true;
  }

  const Plan& plan_;
  const Outcomes& outcomes_;
  std::string& why_;
};

}  // namespace

bool is_late(const Job& job) {
  return job.choice || !job.candidates.empty() ||
         std::any_of(job.links.begin(), job.links.end(), [](const Link& link) { return link.place >= 0; });
}

std::optional<Job> settle(const Plan& plan, const Job& job, const Outcomes& outcomes, std::string& why) {
  if (!is_late(job)) return job;
  return Settler(plan, outcomes, why).settle(job);
}

Outcomes outcomes_in(const std::filesystem::path& run,
                     const std::function<const Completed*(const std::string& job)>& completed) {
  return {[completed](const std::string& job) { return completed(job) != nullptr; },
          [run, completed](const std::string& select) {
            const Completed& chosen = *completed(select);
            return read_selection(run / chosen.attempt_dir, chosen);
          }};
}

std::vector<std::string> read_selection(const std::filesystem::path& attempt_dir, const Completed& completed) {
  const auto output = completed.outputs.find("selected");
  if (output == completed.outputs.end()) throw core::Error(attempt_dir.string() + " holds no selection");
  const std::filesystem::path file = attempt_dir / output->second.files.front().path;
  try {
    return nlohmann::json::parse(io::read_file(file)).at("selected");
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(file.string() + " is no selection: " + error.what());
  }
}

}  // namespace braise::plan
