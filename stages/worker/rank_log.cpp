// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/rank_log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include "kernels/core/error.h"

namespace braise::worker {

RankLog::RankLog(const std::filesystem::path& path) {
  try {
    logger_ =
        std::make_shared<spdlog::logger>("rank", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string()));
  } catch (const spdlog::spdlog_ex& error) {
    throw core::Error("cannot write the log " + path.string() + ": " + error.what());
  }
  logger_->set_formatter(
      std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%fZ %l %v", spdlog::pattern_time_type::utc));
  logger_->flush_on(spdlog::level::trace);
}

RankLog::~RankLog() = default;

void RankLog::info(std::string_view message) {
  logger_->log(spdlog::level::info, spdlog::string_view_t(message.data(), message.size()));
}
void RankLog::error(std::string_view message) {
  logger_->log(spdlog::level::err, spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace braise::worker
