// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace braise::report {

/// "512 B", "1.5 MiB", "16 GiB".
std::string bytes_text(std::uint64_t bytes);

/// "0.3 s", "45 s", "3 min 20 s", "2 h 05 min".
std::string duration_text(double seconds);

/// A number with three significant digits and a decimal multiplier: "950", "12.3 k", "4.56 M".
std::string count_text(double value);

/// Columns of text, each as wide as its widest cell.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// One line a row, each begun by `indent` and without blanks at its end.
  std::string text(const std::string& indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace braise::report
