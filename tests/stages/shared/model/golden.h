// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/shared/io/file.h"
#include "stages/shared/model/decoder.h"
#include "tests/support/support.h"
#include "tests/support/tensors.h"

namespace braise::test {

inline nlohmann::json read_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(io::read_file(path));
}

/// Rows of ids as int32 [rows, length].
inline TestTensor tensor_of(const std::vector<std::vector<std::int32_t>>& rows) {
  std::vector<double> values;
  for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
  return TestTensor(core::Dtype::kInt32,
                    core::Shape{static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(rows.at(0).size())},
                    values);
}

/// All numbers of nested arrays, in order.
inline std::vector<double> flat(const nlohmann::json& nested) {
  std::vector<double> values;
  for (const nlohmann::json& item : nested) {
    if (item.is_array()) {
      const std::vector<double> inner = flat(item);
      values.insert(values.end(), inner.begin(), inner.end());
    } else {
      values.push_back(item.get<double>());
    }
  }
  return values;
}

/// The fp32 numbers of a file.
inline std::vector<double> read_floats(const std::filesystem::path& path) {
  const std::string bytes = io::read_file(path);
  std::vector<double> values(bytes.size() / sizeof(float));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float value = 0;
    std::memcpy(&value, bytes.data() + sizeof value * i, sizeof value);
    values[i] = value;
  }
  return values;
}

/// The folder of the shared models; where it is absent, a warning and nothing.
inline std::optional<std::filesystem::path> models() {
  const std::filesystem::path data = shared_data();
  if (data.empty()) {
    WARN("skipped: there is no ../shared/data");
    return std::nullopt;
  }
  return data / "models";
}

/// The logits of all positions, [B, T, V].
inline std::vector<double> logits_of(Bench& bench, model::Decoder& decoder, const model::Batch& batch) {
  const TestTensor logits(core::Dtype::kFloat32,
                          core::Shape{batch.ids.extent(0), batch.ids.extent(1), decoder.config().vocabulary});
  decoder.logits(logits.view(), batch);
  CHECK(bench.ledger().current_bytes(core::Space::kDevice, core::Category::kWorkspace) < 1 << 22);  // rope's table
  return logits.values();
}

/// The largest difference, relative to values above 1.
inline double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i])));
  }
  return worst;
}

/// The folders of tests/golden/models.
inline std::vector<std::filesystem::path> golden_models() {
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "tests/golden/models"))
    folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  REQUIRE(folders.size() >= 10);
  return folders;
}

inline double length_of(const std::vector<double>& vector) {
  double squares = 0;
  for (const double value : vector) squares += value * value;
  return std::sqrt(squares);
}

inline double largest_of(const std::vector<double>& vector) {
  double largest = 0;
  for (const double value : vector) largest = std::max(largest, std::abs(value));
  return largest;
}

/// The largest error of what the golden file's "sensitivity" calls so. That is what one rounding of all weights does,
/// in units of the rounding; on its way through two layers a value is rounded some thirty times, and such errors add up
/// like their squares: 6 roundings' worth, and some room for the worst element of many.
inline double golden_tolerance(const nlohmann::json& golden, const char* of, core::Dtype dtype) {
  return 8 * golden.at("sensitivity").at(of).get<double>() * unit_roundoff(dtype);
}

/// CHECKs a parameter's gradient against what the golden file says of it.
inline void check_gradient(const std::vector<double>& gradient, const nlohmann::json& expected, double relative,
                           const std::string& parameter) {
  INFO(parameter);
  const auto count = static_cast<std::int64_t>(gradient.size());
  const double largest = expected.at("largest");
  const double length = expected.at("norm");
  std::vector<double> elements;
  for (std::int64_t k = 0; k < 8; ++k) elements.push_back(gradient[static_cast<std::size_t>(k * (count - 1) / 7)]);
  check_close(elements, flat(expected.at("values")), 0, relative * largest, parameter);
  CHECK(std::abs(largest_of(gradient) - largest) < relative * largest);
  CHECK(std::abs(length_of(gradient) - length) < relative * length);
  double weighted = 0;
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto weight = static_cast<double>(i % 7 + 1);
    weighted += gradient[static_cast<std::size_t>(i)] * weight;
    squares += weight * weight;
  }
  // An error of that length, in the direction of the weights.
  CHECK(std::abs(weighted - expected.at("sum").get<double>()) < relative * length * std::sqrt(squares));
}

/// The last positions' logits of each sequence: what the golden file has.
inline std::vector<double> last_logits(const std::vector<double>& logits, const core::Shape& ids,
                                       std::int64_t vocabulary, std::int64_t last) {
  std::vector<double> kept;
  for (std::int64_t b = 0; b < ids[0]; ++b) {
    const auto end = logits.begin() + (b + 1) * ids[1] * vocabulary;
    kept.insert(kept.end(), end - last * vocabulary, end);
  }
  return kept;
}

}  // namespace braise::test
