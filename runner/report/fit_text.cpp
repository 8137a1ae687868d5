// SPDX-License-Identifier: Apache-2.0
#include "runner/report/fit_text.h"

#include "runner/report/format.h"
#include "stages/registry.h"

namespace braise::report {

std::vector<std::optional<stages::Fit>> fits(const plan::Plan& plan) {
  std::vector<std::optional<stages::Fit>> fits;
  for (const plan::Job& job : plan.jobs) {
    const stages::StageDescriptor* const kind = stages::find_kind(job.spec.kind);
    // Of which point a later rung's job will be is not known.
    const bool is_known = kind->fit != nullptr && !job.choice;
    fits.push_back(is_known ? kind->fit(job.spec.config, job.spec.resources, job.models) : std::nullopt);
  }
  return fits;
}

std::string fit_text(const plan::Plan& plan) {
  const std::vector<std::optional<stages::Fit>> found = fits(plan);
  std::string text;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!found[i]) {
      const bool has_choice = stages::find_kind(plan.jobs[i].spec.kind)->fit != nullptr;
      if (has_choice) text += plan.jobs[i].spec.job + ": its model is not known before other jobs have run\n";
      continue;
    }
    const stages::Fit& fit = *found[i];
    const stages::Resources& resources = plan.jobs[i].spec.resources;
    const std::string budget =
        resources.device_memory_bytes == 0 ? "all there is" : bytes_text(resources.device_memory_bytes);
    text += plan.jobs[i].spec.job + ": " + std::to_string(resources.ranks()) + " x " + budget + " of device memory: ";
    text += !fit.fits ? "nothing fits; the least" : fit.changes.empty() ? "fits as it stands; it" : "fits with";
    text += fit.changes.empty() ? " needs " : " these changes, and needs ";
    text += bytes_text(fit.device_bytes) + " a worker, " + bytes_text(fit.gap_bytes) + " for gaps besides, " +
            bytes_text(fit.host_bytes) + " of the host, " + bytes_text(fit.disk_bytes) + " of a disk\n";
    if (fit.changes.empty()) continue;
    Table table({"change", "saves", "why"});
    for (const stages::Fit::Change& change : fit.changes) {
      table.add({change.key + ": " + change.value, bytes_text(change.saved_bytes), change.why});
    }
    text += table.text("  ");
  }
  return text.empty() ? "no job has a choice of layouts\n" : text;
}

nlohmann::json to_json(const stages::Fit& fit) {
  nlohmann::json changes = nlohmann::json::array();
  for (const stages::Fit::Change& change : fit.changes) {
    changes.push_back(
        {{"key", change.key}, {"value", change.value}, {"why", change.why}, {"saved_bytes", change.saved_bytes}});
  }
  return {{"fits", fit.fits},
          {"device_bytes", fit.device_bytes},
          {"gap_bytes", fit.gap_bytes},
          {"host_bytes", fit.host_bytes},
          {"disk_bytes", fit.disk_bytes},
          {"changes", std::move(changes)}};
}

}  // namespace braise::report
