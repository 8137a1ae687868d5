// SPDX-License-Identifier: Apache-2.0
#include "runner/report/plan_text.h"

#include "runner/report/format.h"

namespace braise::report {
namespace {

std::string workers_text(const stages::Resources& resources) {
  std::string text;
  if (resources.nodes > 1) text += std::to_string(resources.nodes) + " x ";
  return text + std::to_string(resources.workers_per_node) + " x " + std::to_string(resources.threads);
}

std::string memory_text(const stages::Estimate& estimate) {
  if (estimate.memory_bytes_per_rank.empty()) return "?";
  std::uint64_t total = 0;
  for (const auto& [category, bytes] : estimate.memory_bytes_per_rank) total += bytes;
  return bytes_text(total);
}

std::string steps_text(const stages::Estimate& estimate) {
  if (estimate.steps == 0) return "?";
  return std::to_string(estimate.steps) + " " + estimate.step_unit + (estimate.steps == 1 ? "" : "s");
}

std::string joined(std::vector<std::string> words, const std::vector<std::string>& more) {
  words.insert(words.end(), more.begin(), more.end());
  if (words.size() > 3) return words[0] + ", " + words[1] + " and " + std::to_string(words.size() - 2) + " more";
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "-" : text;
}

/// A string in double quotes for Graphviz.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

}  // namespace

std::string parameter_name(const std::string& path, const std::string& stage) {
  const std::string written = stage.substr(0, stage.find('.'));  // of "pretrain.rung-2" too
  for (const std::string& prefix : {"stages." + written + ".", std::string("stages."), std::string("vars.")}) {
    if (path.starts_with(prefix)) return path.substr(prefix.size());
  }
  return path;
}

std::string parameters_text(const nlohmann::json& parameters, const std::string& stage) {
  std::string text;
  for (const auto& [path, value] : parameters.items()) {
    text += (text.empty() ? "" : " ") + parameter_name(path, stage) + "=" +
            (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text;
}

std::string plan_table(const plan::Plan& plan, const std::vector<Decision>& decisions) {
  bool swept = false;
  for (const plan::Job& job : plan.jobs) swept = swept || !job.parameters.empty();
  std::vector<std::string> header = {"job", "kind", "workers x threads", "device", "memory a rank", "steps", "after"};
  if (swept) header.emplace_back("parameters");
  header.emplace_back("would run");
  Table table(header);
  std::size_t running = 0;
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const plan::Job& job = plan.jobs[i];
    std::vector<std::string> row = {job.spec.job,
                                    job.spec.kind,
                                    workers_text(job.spec.resources),
                                    job.spec.resources.device,
                                    memory_text(job.estimate),
                                    steps_text(job.estimate),
                                    joined(job.needs, job.candidates)};
    if (swept) row.push_back(parameters_text(job.parameters, job.spec.stage));
    row.push_back(std::string(decisions[i].runs ? "yes: " : "no: ") + decisions[i].why);
    running += decisions[i].runs ? 1 : 0;
    table.add(std::move(row));
  }
  return plan.recipe_name + ": " + std::to_string(plan.jobs.size()) + (plan.jobs.size() == 1 ? " job, " : " jobs, ") +
         std::to_string(running) + " to run, seed " + std::to_string(plan.seed) + "\n" + table.text("  ");
}

std::string plan_dot(const plan::Plan& plan) {
  std::string text = "digraph " + quoted(plan.recipe_name) + " {\n  rankdir=LR;\n  node [shape=box];\n";
  for (const plan::Job& job : plan.jobs) {
    const std::string parameters = parameters_text(job.parameters, job.spec.stage);
    text += "  " + quoted(job.spec.job) + " [label=" +
            quoted(job.spec.job + " (" + job.spec.kind + ")" + (parameters.empty() ? "" : " " + parameters)) + "];\n";
    for (const std::string& need : job.needs) text += "  " + quoted(need) + " -> " + quoted(job.spec.job) + ";\n";
    for (const std::string& candidate : job.candidates) {
      text += "  " + quoted(candidate) + " -> " + quoted(job.spec.job) + " [style=dashed];\n";
    }
  }
  return text + "}\n";
}

}  // namespace braise::report
