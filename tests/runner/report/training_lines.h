// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "stages/shared/telemetry/metrics_lines.h"

namespace braise::report {

/// Lines of metrics.jsonl as a training job tells them.
inline nlohmann::json begin_line() {
  return {{"resume_step", 0}, {"step", 0}, {"steps", 2000}, {"tokens", 0}};
}

inline nlohmann::json step_line(std::int64_t step) {
  return {{"step", step},
          {"steps", 2000},
          {"loss", 1.8421},
          {"loss_bits", telemetry::bits_text(1.8421)},
          {"loss_smoothed", 1.8712},
          {"lr", 8.3e-4},
          {"grad_norm", 0.61},
          {"tokens", 512 * step},
          {"rate", 41234.0},
          {"unit", "tokens/s"},
          {"mfu", 0.381},
          {"memory_peak_bytes", std::int64_t{812} << 20},
          {"eta_s", 72}};
}

inline nlohmann::json validation_line(std::int64_t step) {
  return {
      {"step", step}, {"steps", 2000}, {"validation_loss", 1.9}, {"validation_loss_bits", telemetry::bits_text(1.9)}};
}

inline nlohmann::json end_line(std::int64_t step) {
  const auto seconds = [](double data, double forward, double backward, double communication) {
    return nlohmann::json{
        {"data", data},   {"forward", forward}, {"backward", backward}, {"communication", communication},
        {"optimizer", 0}, {"checkpoint", 0},    {"validation", 0},      {"other", 0.5}};
  };
  return {{"step", step},
          {"steps", 2000},
          {"tokens", 512 * step},
          {"memory_peak_bytes", std::int64_t{812} << 20},
          {"phases",
           {{"steps", 2000}, {"ranks", 2}, {"mean_s", seconds(0.5, 6, 12, 1)}, {"max_s", seconds(0.6, 6.1, 12.1, 2)}}},
          {"expectation", {{"what", "validation loss"}, {"value", 1.9}, {"at_most", 2.0}, {"met", true}}}};
}

}  // namespace braise::report
