// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/rope.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "tests/kernels/reference/rope.h"
#include "tests/support/tensors.h"

namespace braise::test {
namespace {

using attention::RopePairing;
using attention::RopePositions;
using attention::RopeSettings;
using core::Dtype;
constexpr double kUnit = 0x1p-24;

const nlohmann::json& golden() {
  static const nlohmann::json json =
      nlohmann::json::parse(std::ifstream(std::string(BRAISE_SOURCE_DIR) + "/tests/golden/rope.json"));
  return json;
}

/// The scaling that a model's configuration asks for.
attention::RopeScaling scaling_of(const nlohmann::json& test) {
  const auto& p = test["parameters"];
  const std::string type = p["rope_type"];
  const auto optional = [&](const char* key) {
    return p.contains(key) ? std::optional<double>(p[key].get<double>()) : std::nullopt;
  };
  if (type == "linear") return attention::LinearScaling{p["factor"]};
  if (type == "dynamic") return attention::DynamicNtkScaling{p["factor"], test["length"]};
  if (type == "yarn") {
    return attention::YarnScaling{p["factor"],
                                  p["original_max_position_embeddings"],
                                  p.value("beta_fast", 32.0),
                                  p.value("beta_slow", 1.0),
                                  optional("attention_factor"),
                                  optional("mscale"),
                                  optional("mscale_all_dim"),
                                  p.value("truncate", true)};
  }
  return attention::Llama3Scaling{p["factor"], p["low_freq_factor"], p["high_freq_factor"],
                                  p["original_max_position_embeddings"]};
}

TEST_CASE("rotary frequencies are those of Hugging Face transformers") {
  for (const auto& test : golden()["cases"]) {
    const auto frequencies =
        attention::rope_frequencies({16, test["base"], scaling_of(test)}, test["positions"].get<std::int64_t>());
    INFO(test["name"]);
    CHECK(frequencies.attention_factor == Approx(test["attention_factor"].get<double>()).epsilon(1e-12));
    // Theirs are fp32: a power of up to 14 e-folds, whose exponent is rounded, and a few more steps.
    check_close(frequencies.radians, test["frequencies"].get<std::vector<double>>(), 24 * kUnit, 0);
  }
}

TEST_CASE("rotations are those of Hugging Face transformers") {
  const auto& test = golden()["rotation"];
  Bench bench;
  const attention::RopeTable table = attention::make_rope_table(bench.stream(), {16, 10000.0, {}}, 101);
  const TestTensor x(Dtype::kFloat32, {1, 4, 2, 16}, test["x"].get<std::vector<double>>());
  const TestTensor ids(Dtype::kInt32, {1, 4}, test["ids"].get<std::vector<double>>());
  for (const auto& [name, pairing] :
       {std::pair("halves", RopePairing::kHalves), std::pair("interleaved", RopePairing::kInterleaved)}) {
    const TestTensor y(Dtype::kFloat32, {1, 4, 2, 16});
    attention::rope_forward(bench.stream(), y.view(), x.view(), table, {ids.view()}, pairing);
    // Their angles are fp32: 100 radians are off by up to 2^-18, and values are under 4.
    check_close(y.values(), test[name].get<std::vector<double>>(), 0, 8 * 0x1p-18, name);
  }
}

TEST_CASE("a table holds cos and sin of its angles, rounded once") {
  Bench bench;
  for (const RopeSettings& settings :
       {RopeSettings{6, 10000.0, {}}, RopeSettings{128, 500000.0, attention::Llama3Scaling{}},
        RopeSettings{64, 1e6, attention::YarnScaling{4, 32768, 32, 1, {}, {}, {}, true}}}) {
    const std::int64_t positions = 3001;
    const auto table = attention::make_rope_table(bench.stream(), settings, positions);
    const auto frequencies = attention::rope_frequencies(settings, positions);
    std::size_t wrong = 0;
    for (std::int64_t t = 0; t < positions; ++t) {
      for (std::size_t i = 0; i < frequencies.radians.size(); ++i) {
        const double angle = static_cast<double>(t) * frequencies.radians[i];
        const std::size_t at = static_cast<std::size_t>(t) * frequencies.radians.size() + i;
        const double cos = frequencies.attention_factor * std::cos(angle);
        const double sin = frequencies.attention_factor * std::sin(angle);
        wrong += !(std::abs(table.cos.view.data<float>()[at] - cos) <= kUnit * std::abs(cos) + 1e-15);
        wrong += !(std::abs(table.sin.view.data<float>()[at] - sin) <= kUnit * std::abs(sin) + 1e-15);
      }
    }
    CHECK(wrong == 0);
  }
  CHECK(attention::make_rope_table(bench.stream(), {0, 10000.0, {}}, 8).cos.view.elements() == 0);
}

TEST_CASE("the scalings are what their papers say") {
  const auto plain = attention::rope_frequencies({64, 10000.0, {}}, 0).radians;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    CHECK(plain[i] == Approx(std::pow(10000.0, -2.0 * static_cast<double>(i) / 64)).epsilon(1e-14));
  }
  const auto ntk = attention::rope_frequencies({64, 10000.0, attention::DynamicNtkScaling{2, 1024}}, 4096).radians;
  CHECK(ntk.front() == 1.0);
  CHECK(ntk.back() == Approx(plain.back() / (2 * 4 - 1)).epsilon(1e-12));
  CHECK(attention::rope_frequencies({64, 10000.0, attention::DynamicNtkScaling{2, 1024}}, 1024).radians == plain);
  const auto llama = attention::rope_frequencies({64, 10000.0, attention::Llama3Scaling{8, 1, 4, 8192}}, 0).radians;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const double turns = 8192 * plain[i] / 6.283185307179586;
    const double share = (turns - 1) / 3;
    const double expected = turns > 4   ? plain[i]
                            : turns < 1 ? plain[i] / 8
                                        : (1 - share) * plain[i] / 8 + share * plain[i];
    CHECK(llama[i] == Approx(expected).epsilon(1e-12));
  }
  const auto yarn = attention::rope_frequencies({64, 10000.0, attention::YarnScaling{16, 4096}}, 0);
  CHECK(yarn.attention_factor == Approx(0.1 * std::log(16.0) + 1).epsilon(1e-14));
  CHECK(yarn.radians.front() == plain.front());
  CHECK(yarn.radians.back() == Approx(plain.back() / 16).epsilon(1e-14));
}

/// Packed documents: positions start again.
std::vector<std::int64_t> packed_positions(std::size_t count) {
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < count; ++i) positions.push_back(static_cast<std::int64_t>(i * 13 % 41));
  return positions;
}

TEST_CASE("rotation and its gradient give what double precision gives") {
  Bench bench;
  std::uint64_t seed = 0;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
    for (const auto& [size, rotary] :
         {std::pair(2, 2), {6, 6}, {17, 10}, {64, 64}, {64, 34}, {80, 32}, {128, 128}, {5, 0}}) {
      for (const RopePairing pairing : {RopePairing::kHalves, RopePairing::kInterleaved}) {
        const core::Shape shape{2, 5, 3, size};
        const RopeSettings settings{rotary, 10000.0, attention::YarnScaling{4, 32}};
        const auto table = attention::make_rope_table(bench.stream(), settings, 41);
        const auto frequencies = attention::rope_frequencies(settings, 41);
        const auto x = random_values(shape, dtype, ++seed, 3.0);
        const auto positions = packed_positions(10);
        const TestTensor ids(Dtype::kInt32, {2, 5}, std::vector<double>(positions.begin(), positions.end()));
        for (const bool back : {false, true}) {
          for (const Layout layout : {Layout::kContiguous, Layout::kPaddedRows}) {
            const TestTensor x_tensor(dtype, shape, x, layout);
            const TestTensor y(dtype, shape, layout);
            const auto run = back ? attention::rope_backward : attention::rope_forward;
            run(bench.stream(), y.view(), x_tensor.view(), table, {ids.view()}, pairing);
            CHECK(y.intact());
            const auto expected = reference::rope(x, positions, 3, static_cast<std::size_t>(size), frequencies, pairing,
                                                  back ? -1.0 : 1.0);
            // The table, two steps, the store; each component is at most sqrt 2 times the largest of the pair.
            check_close(y.values(), expected, unit_roundoff(dtype), 4 * kUnit * 3 * 1.5 * frequencies.attention_factor,
                        y.view().text());
            run(bench.stream(), x_tensor.view(), x_tensor.view(), table, {ids.view()}, pairing);
            CHECK(x_tensor.intact());
            CHECK(x_tensor.values() == y.values());
          }
        }
      }
    }
  }
}

TEST_CASE("the gradient of rope is the transpose of the rotation") {
  // For a linear map y = M x: dy . M x = M' dy . x, in the reference and so, by the test above, in the operation.
  const auto frequencies = attention::rope_frequencies({10, 100.0, attention::YarnScaling{4, 32}}, 41);
  const auto positions = packed_positions(4);
  const auto x = random_values({4, 2, 12}, Dtype::kFloat32, 1);
  const auto dy = random_values({4, 2, 12}, Dtype::kFloat32, 2);
  for (const RopePairing pairing : {RopePairing::kHalves, RopePairing::kInterleaved}) {
    const auto y = reference::rope(x, positions, 2, 12, frequencies, pairing, 1);
    const auto dx = reference::rope(dy, positions, 2, 12, frequencies, pairing, -1);
    double forward = 0;
    double backward = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      forward += dy[i] * y[i];
      backward += dx[i] * x[i];
    }
    CHECK(forward == Approx(backward).epsilon(1e-13));
  }
}

TEST_CASE("an offset is the positions it stands for, and rope works on slices of a larger tensor") {
  Bench bench;
  const auto table = attention::make_rope_table(bench.stream(), {8, 10000.0, {}}, 20);
  const core::Shape whole{2, 4, 5, 8};
  const auto values = random_values(whole, Dtype::kBfloat16, 9);
  const TestTensor by_offset(Dtype::kBfloat16, whole, values);
  const TestTensor by_ids(Dtype::kBfloat16, whole, values);
  const TestTensor ids(Dtype::kInt32, {2, 4}, {7, 8, 9, 10, 7, 8, 9, 10});
  const auto keys = by_offset.view().slice(2, 3, 5);
  attention::rope_forward(bench.stream(), keys, keys, table, {{}, 7}, RopePairing::kHalves);
  const auto same_keys = by_ids.view().slice(2, 3, 5);
  attention::rope_forward(bench.stream(), same_keys, same_keys, table, {ids.view()}, RopePairing::kHalves);
  CHECK(by_offset.values() == by_ids.values());
  const auto result = by_offset.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i / 8 % 5 < 3) CHECK(result[i] == values[i]);
  }
  CHECK(result != values);
}

TEST_CASE("rope does not depend on threads or tier") {
  const core::Shape shape{2, 37, 3, 50};
  const auto x = random_values(shape, Dtype::kBfloat16, 5);
  for (const auto& [pairing, hash] : {std::pair(RopePairing::kHalves, 0x76282cfdb010e2e9u),
                                      std::pair(RopePairing::kInterleaved, 0xa737ced1722d40e5u)}) {
    const auto run = [&, pairing = pairing] {
      Bench bench;
      const auto table = attention::make_rope_table(bench.stream(), {42, 10000.0, {}}, 40);
      const TestTensor tensor(Dtype::kBfloat16, shape, x);
      attention::rope_forward(bench.stream(), tensor.view(), tensor.view(), table, {{}, 3}, pairing);
      return core::name_hash(tensor.bytes());
    };
    // The bits of every tier, each of which runs this test.
    with_threads([&, hash = hash](int) { CHECK(run() == hash); });
  }
}

TEST_CASE("rope stands extreme and empty inputs") {
  Bench bench;
  const auto table = attention::make_rope_table(bench.stream(), {2, 10000.0, {}}, 4);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const TestTensor x(Dtype::kFloat32, {1, 4, 1, 2}, {1e38, -1e38, kInfinity, 1, std::nan(""), 2, 0x1p-149, 0});
  const TestTensor y(Dtype::kFloat32, {1, 4, 1, 2});
  attention::rope_forward(bench.stream(), y.view(), x.view(), table, {}, RopePairing::kHalves);
  const auto values = y.values();
  CHECK(values[0] == static_cast<float>(1e38));
  CHECK(values[1] == static_cast<float>(-1e38));
  CHECK(values[2] == kInfinity);
  CHECK(values[3] == kInfinity);
  CHECK(std::isnan(values[4]));
  CHECK(std::isnan(values[5]));
  CHECK(std::abs(values[6]) <= 0x1p-149);
  const TestTensor nothing(Dtype::kFloat32, {2, 0, 3, 4});
  attention::rope_forward(bench.stream(), nothing.view(), nothing.view(), table, {}, RopePairing::kHalves);
  CHECK(nothing.intact());
}

TEST_CASE("rope refuses what it cannot do") {
  Bench bench;
  auto& stream = bench.stream();
  const auto table = attention::make_rope_table(stream, {8, 10000.0, {}}, 10);
  const TestTensor x(Dtype::kFloat32, {1, 3, 2, 8}, std::vector<double>(48, 1.0));
  using Catch::Matchers::Contains;
  const auto run = [&](const core::TensorView& tensor, const RopePositions& positions) {
    attention::rope_forward(stream, tensor, tensor, table, positions, RopePairing::kHalves);
  };
  CHECK_THROWS_WITH(run(x.view(), {{}, 8}), Contains("rope_forward: a position is not in the table"));
  CHECK_THROWS_AS(run(x.view(), {{}, -1}), core::Error);
  const TestTensor bad(Dtype::kInt32, {1, 3}, {0, 10, 1});
  CHECK_THROWS_WITH(run(x.view(), {bad.view()}), Contains("not in the table"));
  const TestTensor short_ids(Dtype::kInt32, {1, 2}, {0, 1});
  CHECK_THROWS_WITH(run(x.view(), {short_ids.view()}), Contains("positions is int32[1 x 2]"));
  const TestTensor narrow(Dtype::kFloat32, {1, 3, 2, 6});
  CHECK_THROWS_WITH(run(narrow.view(), {}), Contains("more channels than a head"));
  CHECK_THROWS_AS(run(x.view().transposed(2, 3), {}), core::Error);
  CHECK_THROWS_AS(run(x.view().select(0, 0), {}), core::Error);
  for (const RopeSettings& settings :
       {RopeSettings{7, 10000.0, {}}, RopeSettings{8, 1.0, {}}, RopeSettings{8, 1e4, attention::LinearScaling{0.5}},
        RopeSettings{8, 1e4, attention::YarnScaling{4, 0}}, RopeSettings{2, 1e4, attention::DynamicNtkScaling{2, 10}},
        RopeSettings{8, 1e4, attention::Llama3Scaling{8, 4, 4, 8192}}}) {
    CHECK_THROWS_WITH(attention::rope_frequencies(settings, 1), Contains("rope_frequencies: "));
  }
  CHECK_THROWS_AS(attention::make_rope_table(stream, {8, 10000.0, {}}, (1 << 20) + 1), core::Error);
}

}  // namespace
}  // namespace braise::test
