// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/io/clock.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <string_view>

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
  // By hand: a journal of 10,000 events is to be replayed in a moment, and strptime and sscanf take most of it.
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:dd.ddddddZ";
  if (text.size() != kForm.size()) return -1;
  int parts[7] = {};
  int part = 0;
  for (std::size_t i = 0; i < kForm.size(); ++i) {
    if (kForm[i] == 'd') {
      if (text[i] < '0' || text[i] > '9') return -1;
      parts[part] = parts[part] * 10 + (text[i] - '0');
    } else {
      if (text[i] != kForm[i]) return -1;
      ++part;
    }
  }
  using namespace std::chrono;
  const auto [y, mon, d, h, min, s, us] = parts;
  const year_month_day date(year(y), month(static_cast<unsigned>(mon)), day(static_cast<unsigned>(d)));
  if (!date.ok() || h > 23 || min > 59 || s > 60) return -1;
  const auto time = sys_days(date) + hours(h) + minutes(min) + seconds(s) + microseconds(us);
  return time.time_since_epoch().count();
}

std::string compact_utc(std::int64_t us) {
  return formatted("%Y%m%d-%H%M%S", split(us));
}

}  // namespace braise::io
