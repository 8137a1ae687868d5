// SPDX-License-Identifier: Apache-2.0
#include "stages/api/heartbeat.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "stages/shared/io/clock.h"
#include "stages/shared/io/file.h"

namespace braise::stages {
namespace {

// Small enough that a local reader sees a rewrite whole.
constexpr std::size_t kFileBytes = 512;

constexpr std::string_view kFilePrefix = "heartbeat.";

bool waits_for_others(const Heartbeat& heartbeat) {
  return heartbeat.operation.starts_with("wait");
}

// Beats come every second: three missed ones are no accident.
constexpr std::int64_t kSilentUs = 3'000'000;

}  // namespace

std::string to_text(const Heartbeat& heartbeat) {
  std::string operation = heartbeat.operation;
  std::string host = heartbeat.host;
  for (;;) {
    const nlohmann::json json = {{"rank", heartbeat.rank},
                                 {"host", host},
                                 {"pid", heartbeat.pid},
                                 {"beat", io::format_utc(heartbeat.beat_us)},
                                 {"since", io::format_utc(heartbeat.operation_us)},
                                 {"operation", operation}};
    std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() < kFileBytes) {
      text.resize(kFileBytes - 1, ' ');
      return text + "\n";
    }
    // What is cut in the middle of a character is replaced as it is dumped.
    std::string& longer = operation.size() > host.size() ? operation : host;
    longer.resize(longer.size() - std::min(longer.size(), text.size() / 8));
  }
}

std::vector<Heartbeat> read_heartbeats(const std::filesystem::path& attempt_dir) {
  std::vector<Heartbeat> heartbeats;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(attempt_dir, missing)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kFilePrefix)) continue;
    int rank = -1;
    const char* const end = name.data() + name.size();
    const auto [stop, failed] = std::from_chars(name.data() + kFilePrefix.size(), end, rank);
    if (failed != std::errc() || stop != end || rank < 0) continue;
    try {
      const nlohmann::json json = nlohmann::json::parse(io::read_file(entry.path()));
      Heartbeat heartbeat;
      heartbeat.rank = json.at("rank");
      heartbeat.host = json.at("host");
      heartbeat.pid = json.at("pid");
      heartbeat.beat_us = io::parse_utc(json.at("beat"));
      heartbeat.operation_us = io::parse_utc(json.at("since"));
      heartbeat.operation = json.at("operation");
      if (heartbeat.rank == rank && heartbeat.beat_us >= 0 && heartbeat.operation_us >= 0) {
        heartbeats.push_back(std::move(heartbeat));
      }
    } catch (const nlohmann::json::exception&) {  // being written just now
    } catch (const core::Error&) {                // gone just now
    }
  }
  std::sort(heartbeats.begin(), heartbeats.end(),
            [](const Heartbeat& a, const Heartbeat& b) { return a.rank < b.rank; });
  return heartbeats;
}

std::vector<Heartbeat> hung_ranks(const std::vector<Heartbeat>& heartbeats, std::int64_t now_us,
                                  std::int64_t timeout_us) {
  const auto select = [&heartbeats](const auto& wanted) {
    std::vector<Heartbeat> chosen;
    std::copy_if(heartbeats.begin(), heartbeats.end(), std::back_inserter(chosen), wanted);
    return chosen;
  };
  const auto moved_recently = [&](const Heartbeat& h) { return now_us - h.operation_us <= timeout_us; };

  const auto silent_for = [&](std::int64_t us) {
    return select([&, us](const Heartbeat& h) { return now_us - h.beat_us > us; });
  };

  std::vector<Heartbeat> hung = silent_for(timeout_us);
  if (!hung.empty()) return hung;
  hung = select([&](const Heartbeat& h) { return !moved_recently(h) && !waits_for_others(h); });
  const bool all_wait = std::none_of(heartbeats.begin(), heartbeats.end(), moved_recently);
  if (hung.empty() && all_wait) hung = heartbeats;
  if (hung.empty()) return hung;
  // A stopped rank holds up those that exchange with it, and they may have noted their last operation before it stopped.
  const std::vector<Heartbeat> silent = silent_for(std::min(timeout_us, kSilentUs));
  return silent.empty() ? hung : silent;
}

std::string describe_hung(const Heartbeat& heartbeat, std::int64_t now_us) {
  return "rank " + std::to_string(heartbeat.rank) + " (host " + heartbeat.host + ", pid " +
         std::to_string(heartbeat.pid) + ") has not moved for " +
         std::to_string((now_us - heartbeat.operation_us) / 1000000) + " s; last operation: " + heartbeat.operation;
}

}  // namespace braise::stages
