// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace braise::telemetry {

/// "512 B", "1.5 MiB", "16 GiB".
std::string bytes_text(std::uint64_t bytes);

/// "0.3 s", "45 s", "3 min 20 s", "2 h 05 min".
std::string duration_text(double seconds);

/// A number with three significant digits and a decimal multiplier: "950", "12.3 k", "4.56 M".
std::string count_text(double value);

/// A number with the decimals or the exponent that its size calls for: "1.842", "0.0123", "1.23e-05", "nan".
std::string number_text(double value);

}  // namespace braise::telemetry
