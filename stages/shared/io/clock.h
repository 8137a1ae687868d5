// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace braise::io {

/// Microseconds since 1970-01-01T00:00:00Z, from the wall clock.
std::int64_t utc_us();

/// "2026-01-31T12:34:56.123456Z", the form of every time in journals and metrics.
std::string format_utc(std::int64_t us);

/// The inverse of format_utc; -1 where the text is not of that form.
std::int64_t parse_utc(const std::string& text);

/// "20260131-123456", for names of folders.
std::string compact_utc(std::int64_t us);

}  // namespace braise::io
