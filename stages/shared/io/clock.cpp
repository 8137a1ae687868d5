// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/clock.h"

#include <chrono>
#include <cstdio>
#include <ctime>

namespace braise::io {
namespace {

std::tm split(std::int64_t us) {
  const std::time_t seconds = static_cast<std::time_t>(us / 1000000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return parts;
}

std::string formatted(const char* format, const std::tm& parts) {
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

}  // namespace

std::int64_t utc_us() {
  using namespace std::chrono;
  return duration_cast<microseconds>(system_clock::now().time_since_epoch()).count();
}

std::string format_utc(std::int64_t us) {
  char fraction[16];
  std::snprintf(fraction, sizeof fraction, ".%06dZ", static_cast<int>(us % 1000000));
  return formatted("%Y-%m-%dT%H:%M:%S", split(us)) + fraction;
}

std::int64_t parse_utc(const std::string& text) {
  std::tm parts{};
  int fraction = 0;
  int used = 0;
  if (std::sscanf(text.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d.%6dZ%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday,
                  &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &fraction, &used) != 7 ||
      used != 27 || text.size() != 27) {
    return -1;
  }
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  return static_cast<std::int64_t>(timegm(&parts)) * 1000000 + fraction;
}

std::string compact_utc(std::int64_t us) { return formatted("%Y%m%d-%H%M%S", split(us)); }

}  // namespace braise::io
