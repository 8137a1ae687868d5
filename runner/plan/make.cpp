// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/make.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include "runner/plan/halve.h"
#include "stages/api/build.h"
#include "stages/registry.h"

namespace braise::plan {
namespace {

using Parameters = std::vector<std::pair<std::string, nlohmann::json>>;

/// In place of a draft: whichever job of the halved stage is the best in the end.
constexpr std::size_t kWinner = static_cast<std::size_t>(-1);

/// A job while points are still being merged into it. Jobs are known by index: names depend on how many there will be.
struct Draft {
  std::size_t stage = 0;  ///< index in the order of stages
  recipe::Stage source;
  std::vector<std::size_t> needs;                      ///< drafts
  std::unordered_map<std::string, std::size_t> links;  ///< stage referred to -> draft
  Parameters parameters;
  bool is_after_halving = false;  ///< it builds on the best of a halved stage
};

/// Whether a swept path can change a job of the given stages: its own and those it builds on.
bool concerns(const std::string& path, const std::set<std::string>& stages) {
  if (!path.starts_with("stages.")) return true;
  return stages.contains(path.substr(7, path.find('.', 7) - 7));
}

class Maker {
 public:
  explicit Maker(std::optional<recipe::Halving> halving) : halving_(std::move(halving)) {}

  void add(recipe::Recipe&& point_recipe, const recipe::Point& point) {
    Parameters parameters;
    for (const auto& [path, value] : point.values) parameters.emplace_back(path, value.to_json());
    std::unordered_map<std::string, std::size_t> drafts_of_stage;
    if (order_.empty()) {
      order_ = recipe::in_order(point_recipe.stages);
      known_.resize(point_recipe.stages.size());
      lineages_.resize(point_recipe.stages.size());
    }
    for (const std::size_t stage_index : order_) {
      recipe::Stage& stage = point_recipe.stages[stage_index];
      Draft draft;
      draft.stage = stage_index;
      for (const recipe::Reference& reference : stage.references) {
        draft.links[reference.stage] = drafts_of_stage.at(reference.stage);
      }
      for (const auto& [name, other] : draft.links) draft.needs.push_back(other);
      for (const std::string& name : stage.after) draft.needs.push_back(drafts_of_stage.at(name));
      std::sort(draft.needs.begin(), draft.needs.end());
      draft.needs.erase(std::unique(draft.needs.begin(), draft.needs.end()), draft.needs.end());
      std::string identity = stage.config.dump();
      identity += stage.resources.to_json().dump() + stage.slurm.to_json().dump() + std::to_string(stage.seed);
      for (const std::size_t other : draft.needs) identity += "," + std::to_string(other);
      const auto [known, is_new] = known_[stage_index].try_emplace(std::move(identity), drafts_.size());
      if (is_new) {
        std::set<std::string>& lineage = lineages_[stage_index];
        lineage.insert(stage.name);
        for (const std::size_t other : draft.needs) {
          lineage.merge(std::set(other == kWinner ? lineages_[halved_] : lineages_[drafts_[other].stage]));
          draft.is_after_halving = draft.is_after_halving || other == kWinner || drafts_[other].is_after_halving;
        }
        for (const auto& parameter : parameters) {
          if (concerns(parameter.first, lineage)) draft.parameters.push_back(parameter);
        }
        draft.source = std::move(stage);
        drafts_.push_back(std::move(draft));
      } else {
        // Only what is the same at every point that shares the job is a parameter of it.
        std::erase_if(drafts_[known->second].parameters, [&](const auto& own) {
          return std::find(parameters.begin(), parameters.end(), own) == parameters.end();
        });
      }
      const std::string& name = drafts_[known->second].source.name;
      const bool is_halved = halving_ && name == halving_->stage;
      if (is_halved) halved_ = stage_index;
      drafts_of_stage[name] = is_halved ? kWinner : known->second;
    }
  }

  Plan finish(const recipe::Document& document, const FindInputs& find_inputs, stages::Faults& faults) {
    name_drafts();
    Plan plan;
    const auto add_jobs = [&](bool after_halving) {
      for (std::size_t i = 0; i < drafts_.size(); ++i) {
        if (drafts_[i].is_after_halving == after_halving) plan.jobs.push_back(job(i, document, find_inputs, faults));
      }
    };
    add_jobs(false);
    if (!halving_) return plan;
    std::vector<Job*> points;
    for (Job& one : plan.jobs) {
      if (one.spec.stage == halving_->stage) points.push_back(&one);
    }
    report_unmeasured(plan, points, faults);
    Halved halved = halve(points, *halving_, faults);
    winner_ = halved.winner;
    if (winner_.empty()) return plan;
    last_rung_ = halved.jobs.back().candidates;
    std::move(halved.jobs.begin(), halved.jobs.end(), std::back_inserter(plan.jobs));
    report_swept_after_halving(faults);
    add_jobs(true);
    return plan;
  }

 private:
  void name_drafts() {
    std::vector<std::size_t> next(known_.size(), 0);
    for (const Draft& draft : drafts_) {
      const std::size_t variants = known_[draft.stage].size();
      std::string name = draft.source.name;
      if (variants > 1) {
        std::string number = std::to_string(++next[draft.stage]);
        const std::size_t width = std::to_string(variants).size();
        name += "." + std::string(width - number.size(), '0') + number;
      }
      names_.push_back(std::move(name));
    }
  }

  /// Better told now than after the first rung has been trained.
  void report_unmeasured(const Plan& plan, const std::vector<Job*>& points, stages::Faults& faults) const {
    const auto keeps_none = [](const nlohmann::json& kept) { return kept.is_number() && kept == 0; };
    for (const Job* point : points) {
      std::string without;
      const nlohmann::json& examples = point->spec.config.at("data").at("examples");
      if (!examples.at("files").empty() && keeps_none(examples.at("validation"))) without = point->spec.stage;
      for (const Link& link : point->links) {
        if (!link.pointer.starts_with("/data/tokens")) continue;
        const nlohmann::json& source = plan.find(link.job)->spec.config;
        const nlohmann::json kept = source.contains("validation") ? source["validation"] : nlohmann::json::object();
        without = keeps_none(kept.value("fraction", nlohmann::json())) ? plan.find(link.job)->spec.stage : "";
        if (without.empty()) break;  // one source that has some is enough
      }
      if (without.empty()) continue;
      faults.push_back({halving_->mark, "sweep.halving",
                        "selects by validation loss, and stage `" + without + "` keeps no text for validation",
                        "give that stage a `validation` share above 0"});
      return;
    }
  }

  /// It is known too late which point such a stage belongs to.
  void report_swept_after_halving(stages::Faults& faults) {
    std::set<std::size_t> reported;
    for (const Draft& draft : drafts_) {
      if (!draft.is_after_halving || known_[draft.stage].size() == 1 || !reported.insert(draft.stage).second) continue;
      faults.push_back({draft.source.mark, "stages." + draft.source.name,
                        "builds on the halved stage `" + halving_->stage + "`, and is swept itself",
                        "let no swept value reach it, such as a `seed`: give it values of its own"});
    }
  }

  Job job(std::size_t index, const recipe::Document& document, const FindInputs& find_inputs, stages::Faults& faults) {
    Draft& draft = drafts_[index];
    const stages::StageDescriptor& kind = *stages::find_kind(draft.source.kind);
    Job job;
    job.spec.job = names_[index];
    job.spec.stage = draft.source.name;
    job.spec.kind = draft.source.kind;
    job.spec.kind_version = kind.version;
    job.spec.braise_version = stages::version();
    job.spec.seed = draft.source.seed;
    job.spec.resources = draft.source.resources;
    job.spec.config = std::move(draft.source.config);
    job.slurm = draft.source.slurm;
    job.models = std::move(draft.source.models);
    for (const recipe::Reference& reference : draft.source.references) {
      const std::size_t source = draft.links.at(reference.stage);
      job.links.push_back({reference.pointer, reference.text(), source == kWinner ? winner_ : names_[source],
                           reference.output, source == kWinner ? 0 : -1});
      // Points may be of other models, and so is what is made of them.
      if (source == kWinner || drafts_[source].is_after_halving) job.models.erase(job.links.back().text);
    }
    for (const std::size_t other : draft.needs) {
      job.needs.push_back(other == kWinner ? winner_ : names_[other]);
      if (other == kWinner) job.candidates = last_rung_;
    }
    std::sort(job.needs.begin(), job.needs.end());
    job.parameters = nlohmann::json::object();
    for (const auto& [path, value] : draft.parameters) job.parameters[path] = value;
    for (const stages::InputPattern& pattern : kind.inputs(job.spec.config)) {
      // What lies in the run itself is not there yet.
      if (pattern.pattern.starts_with("${")) continue;
      job.input_pointers.push_back(pattern.pointer);
      std::string problem, remedy;
      std::vector<stages::InputFile> files = find_inputs(pattern, problem, remedy);
      if (!problem.empty()) {
        std::string path = "stages." + draft.source.name + pattern.pointer;
        std::replace(path.begin(), path.end(), '/', '.');
        faults.push_back({recipe::mark_of(document, path), path, std::move(problem), std::move(remedy)});
      }
      std::move(files.begin(), files.end(), std::back_inserter(job.spec.inputs));
    }
    job.estimate = kind.estimate(job.spec.config, job.spec.resources, job.spec.inputs, job.models);
    for (const stages::OutputDeclaration& output : kind.outputs) job.outputs[output.name] = output.path;
    return job;
  }

  const std::optional<recipe::Halving> halving_;
  std::size_t halved_ = 0;  ///< the stage that is halved
  std::string winner_;      ///< the `select` job that names the best of it
  std::vector<std::string> last_rung_;
  std::vector<std::size_t> order_;
  std::vector<std::unordered_map<std::string, std::size_t>> known_;  ///< by stage: identity -> draft
  std::vector<std::set<std::string>> lineages_;                      ///< by stage: itself and all stages it builds on
  std::vector<Draft> drafts_;
  std::vector<std::string> names_;
};

}  // namespace

std::optional<Made> make_plan(const recipe::Document& document, const FindInputs& find_inputs, stages::Faults& faults) {
  const std::size_t faults_before = faults.size();
  const std::vector<recipe::Point> points = recipe::sweep_points(document, faults);
  if (faults.size() > faults_before) {
    // The sweep itself is wrong: still report what else is.
    recipe::resolve(document, points.empty() ? recipe::Point() : points.front(), faults);
    return std::nullopt;
  }
  Made made;
  made.points = points.size();
  Maker maker(recipe::sweep_halving(document));
  bool first = true;
  for (const recipe::Point& point : points) {
    // Each point may have faults of its own; a hundred are enough for one sitting.
    if (faults.size() > faults_before + 100) break;
    std::optional<recipe::Recipe> resolved = recipe::resolve(document, point, faults);
    if (!resolved || faults.size() > faults_before) continue;
    if (first) made.first = *resolved;
    first = false;
    maker.add(std::move(*resolved), point);
  }
  if (faults.size() > faults_before) return std::nullopt;
  made.plan = maker.finish(document, find_inputs, faults);
  if (faults.size() > faults_before) return std::nullopt;
  made.plan.recipe_name = made.first.name;
  made.plan.seed = made.first.seed;
  return made;
}

}  // namespace braise::plan
