// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/telemetry/quantity.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace braise::telemetry {
namespace {

template <typename... Arguments>
std::string formatted(const char* format, Arguments... arguments) {
  char text[64];
  std::snprintf(text, sizeof text, format, arguments...);
  return text;
}

}  // namespace

std::string bytes_text(std::uint64_t bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1023.95 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  value = std::round(value * 10) / 10;
  if (unit == 0 || value >= 100 || value == std::floor(value)) return formatted("%.0f %s", value, kUnits[unit]);
  return formatted("%.1f %s", value, kUnits[unit]);
}

std::string duration_text(double seconds) {
  if (seconds < 9.95) return formatted("%.1f s", std::max(0.0, seconds));
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 60) return formatted("%lld s", whole);
  if (whole < 3600) return formatted("%lld min %02lld s", whole / 60, whole % 60);
  if (whole < 86400) return formatted("%lld h %02lld min", whole / 3600, whole / 60 % 60);
  return formatted("%lld d %02lld h", whole / 86400, whole / 3600 % 24);
}

std::string count_text(double value) {
  static const char* const kMultipliers[] = {"", " k", " M", " G", " T", " P"};
  int step = 0;
  while (std::abs(value) >= 999.5 && step < 5) {
    value /= 1000;
    ++step;
  }
  const int decimals = value == std::floor(value) ? 0 : std::abs(value) < 9.995 ? 2 : std::abs(value) < 99.95 ? 1 : 0;
  return formatted("%.*f%s", decimals, value, kMultipliers[step]);
}

std::string number_text(double value) {
  const double size = std::abs(value);
  if (size >= 1000 && size < 1e6) return formatted("%.0f", value);
  if (size >= 100) return formatted(size < 1000 ? "%.1f" : "%.2e", value);
  if (size >= 1) return formatted("%.3f", value);
  return formatted("%.3g", value);
}

}  // namespace braise::telemetry
