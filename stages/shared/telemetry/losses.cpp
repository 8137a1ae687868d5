// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/losses.h"

#include <bit>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/json_lines.h"

namespace braise::telemetry {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kLossBits[] = "loss_bits";
constexpr char kLoss[] = "loss";
constexpr char kStep[] = "step";
constexpr char kResumeStep[] = "resume_step";

}  // namespace

std::string Loss::text() const {
  char text[64];
  std::snprintf(text, sizeof text, "%.17g (%016llx)", std::bit_cast<double>(bits),
                static_cast<unsigned long long>(bits));
  return text;
}

void take_in_loss(Losses& losses, const json& line, const fs::path& from) {
  if (line.contains(kResumeStep) && line[kResumeStep].is_number_integer())
    losses.erase(losses.upper_bound(line[kResumeStep].get<std::int64_t>()), losses.end());
  if (!line.contains(kStep) || !line[kStep].is_number_integer() || !line.contains(kLoss)) return;
  Loss loss;
  const std::string bits = line.value(kLossBits, json("")).is_string() ? line.value(kLossBits, "") : "";
  if (bits.size() != 16 || std::from_chars(bits.data(), bits.data() + 16, loss.bits, 16).ptr != bits.data() + 16) {
    throw core::Error(from.string() + " has a loss without its bits (" + kLossBits + "), at step " +
                      line[kStep].dump());
  }
  losses[line[kStep].get<std::int64_t>()] = loss;
}

Losses losses_of(const std::vector<fs::path>& attempts_latest_first) {
  Losses losses;
  for (auto attempt = attempts_latest_first.rbegin(); attempt != attempts_latest_first.rend(); ++attempt) {
    const fs::path path = *attempt / "metrics.jsonl";
    if (!fs::exists(path)) continue;
    for (const json& line : io::read_json_lines(path).objects) take_in_loss(losses, line, path);
  }
  return losses;
}

}  // namespace braise::telemetry
