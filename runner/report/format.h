// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "stages/shared/telemetry/quantity.h"

namespace braise::report {

using telemetry::bytes_text;
using telemetry::count_text;
using telemetry::duration_text;
using telemetry::number_text;

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
