// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/tier.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "stages/shared/io/json_lines.h"

namespace braise::worker {
namespace {

std::optional<core::Tier> pinned(const stages::JobSpec& job) {
  const nlohmann::json::json_pointer key("/numerics/tier");
  return job.config.contains(key) ? core::tier_named(job.config.at(key).get<std::string>()) : std::nullopt;
}

/// Of the latest attempt whose workers came to start; a rank that it did not have is as its last.
std::optional<core::Tier> earlier(const stages::JobSpec& job, const Attempt& attempt, int rank) {
  for (const std::filesystem::path& folder : attempt.earlier) {
    const std::filesystem::path journal =
        attempt.journal.parent_path() / (job.job + "-" + folder.filename().string() + ".jsonl");
    if (!std::filesystem::exists(journal)) continue;
    for (const nlohmann::json& event : io::read_json_lines(journal).objects) {
      if (event.at("event") != "worker_started") continue;
      const nlohmann::json& tiers = event.at("tiers");
      return core::tier_named(tiers.at(std::min(static_cast<std::size_t>(rank), tiers.size() - 1)).get<std::string>());
    }
  }
  return std::nullopt;
}

}  // namespace

core::Tier choose_tier(const stages::JobSpec& job, const Attempt& attempt, int rank,
                       const std::function<void(const std::string&)>& log) {
  const core::Tier most = core::detected_tier();
  if (const std::optional<core::Tier> tier = pinned(job)) {
    if (*tier > most) {
      throw core::Error("numerics.tier is " + std::string(core::name(*tier)) + ", which this processor lacks: it has " +
                        std::string(core::name(most)) + "; run on another machine, or pin that");
    }
    return *tier;
  }
  if (const std::optional<core::Tier> before = earlier(job, attempt, rank)) {
    if (*before <= most) return *before;
    log("the attempt before had instruction-set tier " + std::string(core::name(*before)) +
        ", which this processor lacks: from here on bits are those of " + std::string(core::name(most)));
  }
  return most;
}

}  // namespace braise::worker
