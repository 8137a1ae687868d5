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

}  // namespace braise::test
