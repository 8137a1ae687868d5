// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace braise::telemetry {

/// A loss as metrics.jsonl has it to the bit.
struct Loss {
  std::uint64_t bits = 0;  ///< of the IEEE 754 double
  bool operator==(const Loss&) const = default;
  std::string text() const;  ///< "1.25 (3ff4000000000000)"
};

/// Losses by step.
using Losses = std::map<std::int64_t, Loss>;

/// Takes in a line of metrics.jsonl, in the order of time: one with resume_step voids what was told before of later
/// steps. `from` is the file, for messages. Errors: core::Error for a loss without its bits.
void take_in_loss(Losses& losses, const nlohmann::json& line, const std::filesystem::path& from);

/// The losses of a job, from the lines of its attempts that hold. Errors: core::Error.
Losses losses_of(const std::vector<std::filesystem::path>& attempts_latest_first);

}  // namespace braise::telemetry
