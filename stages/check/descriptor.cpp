// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "stages/api/descriptor.h"

namespace braise::check {
namespace {

/// The most that one measurement holds; they follow each other.
std::uint64_t workspace_bytes(const nlohmann::json& config, const stages::Resources& resources) {
  const std::uint64_t exchange =
      2 * static_cast<std::uint64_t>(resources.ranks()) * config.at("message_size").get<std::uint64_t>();
  const std::uint64_t side = config.at("gemm_size");
  const std::uint64_t gemm = 3 * side * side * sizeof(float);
  return std::max({exchange, config.at("memory_size").get<std::uint64_t>(), gemm});
}

void check(const stages::RuleContext& context) {
  const std::uint64_t budget = context.resources.host_memory_bytes;
  const auto demand = [&](const char* pointer, std::uint64_t bytes, const std::string& what) {
    if (bytes <= budget) return;
    context.fault(pointer,
                  what + " takes " + std::to_string(bytes) + " bytes of each worker, more than " +
                      "resources.host_memory (" + std::to_string(budget) + ")",
                  "must be smaller, or resources.host_memory larger");
  };
  const std::uint64_t side = context.config.at("gemm_size");
  demand("/message_size",
         2 * static_cast<std::uint64_t>(context.resources.ranks()) *
             context.config.at("message_size").get<std::uint64_t>(),
         "an exchange of such messages between all workers");
  demand("/memory_size", context.config.at("memory_size"), "the array");
  demand("/gemm_size", 3 * side * side * sizeof(float), "the product of such matrices");
}

std::vector<stages::InputPattern> inputs(const nlohmann::json&) {
  return {};
}

stages::Estimate estimate(const nlohmann::json& config, const stages::Resources& resources,
                          const std::vector<stages::InputFile>&, const stages::KnownModels&) {
  stages::Estimate result;
  result.memory_bytes_per_rank["workspace"] = workspace_bytes(config, resources);
  result.disk_bytes_per_rank = config.at("scratch_size");
  result.steps = 6;
  result.step_unit = "measurement";
  return result;
}

}  // namespace

const stages::StageDescriptor& descriptor() {
  static const stages::StageDescriptor descriptor = {
      .kind = "check",
      .version = 2,
      .summary = "Tests MPI between all ranks and what their nodes have, and measures the machine.",
      .reusable = false,
      .devices = {"cpu"},
      .outputs = {{"machine", "artifacts/machine.json",
                   "the machine: hosts, memory bandwidth and matrix-multiply rate of each rank, network"}},
      .check = check,
      .inputs = inputs,
      .estimate = estimate,
  };
  return descriptor;
}

}  // namespace braise::check
