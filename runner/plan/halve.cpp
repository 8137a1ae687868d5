// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/halve.h"

#include <algorithm>

#include "stages/api/build.h"
#include "stages/registry.h"

namespace braise::plan {
namespace {

/// Enough to read manifests.
constexpr std::uint64_t kSelectMemory = std::uint64_t{256} << 20;

std::string numbered(const std::string& name, std::size_t number, std::size_t of) {
  if (of == 1) return name;
  const std::string text = std::to_string(number);
  return name + "." + std::string(std::to_string(of).size() - text.size(), '0') + text;
}

bool is_sound(const std::vector<Job*>& points, const recipe::Halving& halving, stages::Faults& faults) {
  const std::size_t before = faults.size();
  const auto fault = [&](std::string problem, std::string remedy) {
    if (faults.size() == before)
      faults.push_back({halving.mark, "sweep.halving", std::move(problem), std::move(remedy)});
  };
  if (points.size() < 2) fault("has one point of stage `" + halving.stage + "` to choose from", "sweep over its keys");
  for (const Job* point : points) {
    const std::int64_t steps = point->spec.config.at("steps");
    if (point->spec.resources.to_json() != points.front()->spec.resources.to_json() ||
        point->slurm.to_json() != points.front()->slurm.to_json()) {
      fault("has points that ask for different resources",
            "sweep over other keys: rungs are planned before it is known which points they train");
    } else if (steps == 0) {
      fault("has points whose length is not given in steps", "give the stage `steps`");
    } else if (halving.rungs.back() >= steps) {
      fault("has a rung at step " + std::to_string(halving.rungs.back()) + " of trainings of " + std::to_string(steps) +
                " steps",
            "must select before the end");
    } else if (point->spec.config.at("until") != 0 || point->spec.config.at("continue_from") != "") {
      fault("is of a stage with `until` or `continue_from`", "leave these to the rungs");
    }
  }
  return faults.size() == before;
}

/// The job that selects from a rung.
Job selection(const std::string& name, const std::vector<const Job*>& rung, std::size_t keep) {
  const stages::StageDescriptor& kind = *stages::find_kind("select");
  const Job& first = *rung.front();
  Job job;
  job.spec.job = job.spec.stage = name;
  job.spec.kind = kind.kind;
  job.spec.kind_version = kind.version;
  job.spec.braise_version = stages::version();
  job.spec.resources = first.spec.resources;
  job.spec.resources.nodes = job.spec.resources.workers_per_node = job.spec.resources.threads = 1;
  job.spec.resources.device = "cpu";
  job.spec.resources.device_memory_bytes = 0;
  job.spec.resources.host_memory_bytes = kSelectMemory;
  job.slurm = first.slurm;
  job.slurm.exclusive = false;
  nlohmann::json candidates = nlohmann::json::array();
  for (const Job* candidate : rung) {
    const std::string text = "${stages." + candidate->spec.stage + ".checkpoint}";
    job.links.push_back(
        {"/candidates/" + std::to_string(candidates.size()) + "/checkpoint", text, candidate->spec.job, "checkpoint"});
    candidates.push_back({{"name", candidate->spec.job}, {"checkpoint", text}});
    job.candidates.push_back(candidate->spec.job);
  }
  std::sort(job.candidates.begin(), job.candidates.end());
  job.spec.config = {{"candidates", std::move(candidates)}, {"keep", keep}};
  job.parameters = nlohmann::json::object();
  job.estimate = kind.estimate(job.spec.config, job.spec.resources, {}, {});
  for (const stages::OutputDeclaration& output : kind.outputs) job.outputs[output.name] = output.path;
  return job;
}

}  // namespace

Halved halve(const std::vector<Job*>& points, const recipe::Halving& halving, stages::Faults& faults) {
  Halved result;
  if (!is_sound(points, halving, faults)) return result;
  const auto estimated = [](Job& job, std::int64_t until) {
    job.estimate.steps =
        static_cast<std::uint64_t>(until > 0 ? until : job.spec.config.at("steps").get<std::int64_t>());
  };
  std::vector<const Job*> rung;
  for (Job* point : points) {
    point->spec.config["until"] = halving.rungs.front();
    estimated(*point, halving.rungs.front());
    rung.push_back(point);
  }
  // Pointers into `jobs` are kept: it must not move.
  std::size_t count = 1, left = points.size();
  for (std::size_t i = 0; i < halving.rungs.size(); ++i) {
    left = std::max<std::size_t>(1, left / static_cast<std::size_t>(halving.factor));
    count += left + 1;
  }
  result.jobs.reserve(count);
  for (std::size_t i = 0; i <= halving.rungs.size(); ++i) {
    const bool last = i == halving.rungs.size();
    const std::size_t keep =
        last ? 1 : std::max<std::size_t>(1, rung.size() / static_cast<std::size_t>(halving.factor));
    const Job& select =
        result.jobs.emplace_back(selection(halving.stage + ".select-" + std::to_string(i + 1), rung, keep));
    if (last) break;
    const std::int64_t until = i + 1 < halving.rungs.size() ? halving.rungs[i + 1] : 0;
    const std::string stage = halving.stage + ".rung-" + std::to_string(i + 2);
    std::vector<const Job*> next;
    for (std::size_t place = 0; place < keep; ++place) {
      Job job = *rung.front();
      job.estimate.memory_bytes_per_rank.clear();  // another point may need more
      job.estimate.host_bytes_per_rank.clear();
      job.estimate.sent_bytes_per_step.clear();
      job.estimate.disk_bytes_per_rank = 0;
      job.spec.job = numbered(stage, place + 1, keep);
      job.spec.stage = stage;
      job.spec.config["until"] = until;
      estimated(job, until);
      job.needs = {select.spec.job};
      job.choice = {select.spec.job, static_cast<int>(place), until};
      job.parameters = nlohmann::json::object();
      result.jobs.push_back(std::move(job));
      next.push_back(&result.jobs.back());
    }
    rung = std::move(next);
  }
  result.winner = result.jobs.back().spec.job;
  return result;
}

}  // namespace braise::plan
