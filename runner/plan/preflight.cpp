// SPDX-License-Identifier: Apache-2.0
#include "runner/plan/preflight.h"

#include <algorithm>
#include <cassert>
#include <nlohmann/json.hpp>

#include "runner/recipe/schema.h"
#include "schemas/schemas.h"
#include "stages/registry.h"
#include "stages/shared/io/digest.h"

namespace braise::plan {
namespace {

// What suffices to see that something works, in a second or two.
constexpr double kDuration = 0.05;
constexpr std::uint64_t kMostMessageBytes = 64 << 10;
constexpr std::uint64_t kMemoryBytes = 1 << 20;
constexpr int kGemmSize = 128;
constexpr std::uint64_t kScratchBytes = 4 << 20;

/// Ranks that hang are not waited for as long as those that compute.
constexpr double kHangSeconds = 60;

}  // namespace

stages::JobSpec preflight_of(const stages::JobSpec& job, const stages::Estimate& estimate) {
  static const recipe::Schema& schema =
      recipe::compile_schema(schemas::schema("stage.check.schema.json"), "stage.check.schema.json");
  stages::JobSpec check = job;
  check.job += ".preflight";
  check.kind = "check";
  const stages::StageDescriptor* const kind = stages::find_kind(check.kind);
  assert(kind != nullptr);
  check.kind_version = kind->version;
  stages::Resources& resources = check.resources;
  const std::uint64_t device_bytes = resources.device == "cpu" ? resources.device_memory_bytes : 0;
  const auto ranks = static_cast<std::uint64_t>(resources.ranks());
  const nlohmann::json wanted = {
      {"duration", kDuration},
      {"message_size",
       std::max<std::uint64_t>(1, std::min(kMostMessageBytes, resources.host_memory_bytes / (2 * ranks)))},
      {"memory_size", kMemoryBytes},
      {"gemm_size", kGemmSize},
      {"scratch_size", kScratchBytes},
      {"free_memory", resources.host_memory_bytes + device_bytes},
      {"free_disk", estimate.disk_bytes_per_rank}};
  check.config = recipe::complete_default(schema, wanted);
  for (const char* common : {"kind", "resources", "slurm", "after", "seed"}) check.config.erase(common);
  resources.device = "cpu";
  resources.time_limit_s = 0;
  resources.retries = 0;
  resources.hang_timeout_s =
      resources.hang_timeout_s > 0 ? std::min(resources.hang_timeout_s, kHangSeconds) : kHangSeconds;
  check.inputs.clear();
  check.fingerprint = io::sha256(check.config.dump());
  return check;
}

}  // namespace braise::plan
