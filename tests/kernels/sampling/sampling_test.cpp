// SPDX-License-Identifier: Apache-2.0
#include "kernels/sampling/sampling.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "tests/kernels/reference/sampling.h"
#include "tests/support/tensors.h"

using namespace braise::core;
using namespace braise::test;
namespace reference = braise::reference;
using braise::sampling::Choice;
using braise::sampling::sample;
using Catch::Contains;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<std::int32_t> run(Bench& bench, const TestTensor& logits, const std::vector<Choice>& rows) {
  const TestTensor ids(Dtype::kInt32, Shape{logits.view().extent(0)});
  sample(bench.stream(), ids.view(), logits.view(), rows);
  CHECK(ids.intact());
  const std::int32_t* const data = ids.view().data<std::int32_t>();
  return {data, data + rows.size()};
}

std::int32_t run_one(Bench& bench, const std::vector<double>& logits, const Choice& choice) {
  return run(bench, TestTensor(Dtype::kFloat32, Shape{1, std::ssize(logits)}, logits), {choice})[0];
}

Choice choice_of(float temperature, std::int64_t top_k, double top_p, std::uint64_t request, std::uint64_t token) {
  return {temperature, top_k, top_p, 17, request, token};
}

/// The number that decides, as the header says.
double uniform_of(const Choice& choice) {
  const RandomStream random(choice.seed, Purpose::kSampling, choice.request);
  const std::uint64_t high = random.word(4 * choice.token);
  const std::uint64_t low = random.word(4 * choice.token + 1);
  return std::ldexp(static_cast<double>(((high << 32) + low) / 2048), -53);
}

struct Filters {
  float temperature;
  std::int64_t top_k;
  double top_p;
};
const std::vector<Filters> kFilters{{0, 0, 1},        {1, 0, 1},    {0.3f, 0, 1},   {2.5f, 0, 1},   {1, 1, 1},
                                    {1, 7, 1},        {1, 1000, 1}, {1, 0, 0.9},    {1, 0, 1e-9},   {0.7f, 50, 0.9},
                                    {1.5f, 0, 0.999}, {1, 3, 0.5},  {1e-30f, 0, 1}, {1e30f, 0, 0.4}};

}  // namespace

TEST_CASE("the token is the one the definition gives") {
  Bench bench;
  std::uint64_t seed = 40;
  int compared = 0;
  int near_an_edge = 0;
  for (const std::int64_t tokens : {1, 2, 5, 16, 255, 256, 257, 1000, 50257}) {
    for (const double range : {1.0, 12.0}) {
      const std::int64_t count = tokens > 10000 ? 3 : 6;
      const Shape shape{count, tokens};
      const TestTensor logits(Dtype::kFloat32, shape, random_values(shape, Dtype::kFloat32, ++seed, range),
                              Layout::kPaddedRows);
      const std::vector<double> values = logits.values();
      for (const Filters& filters : kFilters) {
        std::vector<Choice> choices;
        for (std::int64_t row = 0; row < count; ++row) {
          choices.push_back(
              choice_of(filters.temperature, filters.top_k, filters.top_p, static_cast<std::uint64_t>(row), seed));
        }
        const std::vector<std::int32_t> ids = run(bench, logits, choices);
        for (std::size_t row = 0; row < choices.size(); ++row) {
          const auto at = values.begin() + static_cast<std::ptrdiff_t>(row) * tokens;
          const auto next = reference::next_token({at, at + tokens}, filters.temperature,
                                                  static_cast<std::size_t>(filters.top_k), filters.top_p);
          double margin = 1;
          const std::size_t want = reference::chosen(next.probabilities, uniform_of(choices[row]), margin);
          // A weight errs by two roundings of its argument and two of its own; a sum by their mean, which is less
          // where only the first ranks are kept.
          const double error = 0x1p-23 * (next.argument + 2);
          INFO("V " << tokens << " range " << range << " temperature " << filters.temperature << " top_k "
                    << filters.top_k << " top_p " << filters.top_p << " row " << row);
          if (margin < error || next.margin < error) {
            ++near_an_edge;
            CHECK((ids[row] >= 0 && ids[row] < tokens));
          } else {
            ++compared;
            CHECK(ids[row] == static_cast<std::int32_t>(want));
          }
        }
      }
    }
  }
  CHECK(near_an_edge * 20 < compared);
}

TEST_CASE("tokens come as often as they should") {
  Bench bench;
  constexpr std::size_t kDraws = 20000;
  for (const Filters& filters :
       {Filters{1, 0, 1}, Filters{0.6f, 0, 1}, Filters{1.4f, 9, 1}, Filters{1, 0, 0.8}, Filters{0.9f, 12, 0.9}}) {
    const std::vector<double> row = random_values(Shape{40}, Dtype::kFloat32, 77, 3);
    const auto next = reference::next_token(row, static_cast<double>(filters.temperature),
                                            static_cast<std::size_t>(filters.top_k), filters.top_p);
    const std::vector<double>& p = next.probabilities;
    // Along requests, along the tokens of one request, and along seeds.
    for (const int way : {0, 1, 2}) {
      std::vector<double> seen(row.size());
      std::vector<double> logits;
      std::vector<Choice> choices;
      for (std::size_t i = 0; i < kDraws; ++i) {
        logits.insert(logits.end(), row.begin(), row.end());
        choices.push_back({filters.temperature, filters.top_k, filters.top_p, way == 2 ? i : 5u,
                           way == 0 ? i : std::size_t{1}, way == 1 ? i : std::size_t{2}});
      }
      const TestTensor tensor(Dtype::kFloat32, Shape{kDraws, std::ssize(row)}, logits);
      for (const std::int32_t id : run(bench, tensor, choices)) ++seen[static_cast<std::size_t>(id)];
      double chi_square = 0;
      double freedom = -1;
      for (std::size_t v = 0; v < p.size(); ++v) {
        if (p[v] == 0) {
          CHECK(seen[v] == 0);
          continue;
        }
        const double expected = p[v] * static_cast<double>(kDraws);
        chi_square += (seen[v] - expected) * (seen[v] - expected) / expected;
        ++freedom;
      }
      INFO("way " << way << " freedom " << freedom << " chi-square " << chi_square);
      // Five standard deviations, and not suspiciously even.
      CHECK(chi_square < freedom + 5 * std::sqrt(2 * freedom));
      CHECK(chi_square > freedom - 4 * std::sqrt(2 * freedom));
    }
  }
}

TEST_CASE("equal logits are ranked by id") {
  Bench bench;
  const std::vector<double> logits{1, 3, 2, 3, 3, -0.0, 0.0};
  CHECK(run_one(bench, logits, choice_of(0, 0, 1, 0, 0)) == 1);
  std::map<std::int64_t, std::set<std::int32_t>> by_top_k;
  std::set<std::int32_t> by_top_p;
  std::set<std::int32_t> of_zeros;
  for (std::uint64_t token = 0; token < 300; ++token) {
    for (const std::int64_t top_k : {1, 2, 3, 4}) {
      by_top_k[top_k].insert(run_one(bench, logits, choice_of(1, top_k, 1, 0, token)));
    }
    by_top_p.insert(run_one(bench, {5, 5, 5, 5}, choice_of(1, 0, 0.5, 0, token)));
    of_zeros.insert(run_one(bench, {-0.0, 0.0, -0.0}, choice_of(1, 2, 1, 0, token)));
  }
  CHECK(by_top_k[1] == std::set<std::int32_t>{1});
  CHECK(by_top_k[2] == std::set<std::int32_t>{1, 3});
  CHECK(by_top_k[3] == std::set<std::int32_t>{1, 3, 4});
  CHECK(by_top_k[4] == std::set<std::int32_t>{1, 2, 3, 4});
  CHECK(by_top_p == std::set<std::int32_t>{0, 1});
  CHECK(of_zeros == std::set<std::int32_t>{0, 1});
}

TEST_CASE("a row's token depends neither on the rows beside it nor on threads") {
  Bench bench;
  const Shape shape{9, 3001};
  const std::vector<double> values = random_values(shape, Dtype::kFloat32, 5, 4);
  std::vector<Choice> choices;
  for (std::uint64_t i = 0; i < 9; ++i) {
    const Filters& filters = kFilters[i];
    choices.push_back(choice_of(filters.temperature, filters.top_k, filters.top_p, 100 + i, 7 * i));
  }
  std::vector<std::int32_t> expected;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(i) * 3001;
    expected.push_back(run_one(bench, {at, at + 3001}, choices[i]));
  }
  const TestTensor logits(Dtype::kFloat32, shape, values);
  with_threads([&](int) { CHECK(run(bench, logits, choices) == expected); });
  CHECK(bench.ledger().current_bytes(Space::kDevice, Category::kWorkspace) == 0);
}

TEST_CASE("logits at the ends of fp32 are taken, and what is no logit is told") {
  Bench bench;
  constexpr double kLargest = std::numeric_limits<float>::max();
  constexpr double kSmallest = std::numeric_limits<float>::denorm_min();
  for (const Filters& filters : kFilters) {
    if (filters.temperature > 1e20f) continue;
    for (std::uint64_t token = 0; token < 20; ++token) {
      const Choice choice = choice_of(filters.temperature, filters.top_k, filters.top_p, 3, token);
      CHECK(run_one(bench, {-kLargest, kLargest, -kLargest, 0}, choice) == 1);
      CHECK(run_one(bench, {-kInfinity, -kInfinity, -kLargest, -kInfinity}, choice) == 2);
      const std::int32_t either = run_one(bench, {-kInfinity, kSmallest, -kInfinity, kSmallest}, choice);
      CHECK((either == 1 || either == 3));
    }
  }
  const Choice choice = choice_of(1, 0, 1, 0, 0);
  for (const float temperature : {0.0f, 1.0f}) {
    for (const std::size_t at : {0, 5, 18, 19}) {
      std::vector<double> logits(20, -kInfinity);
      logits[3] = 1;
      Choice with = choice;
      with.temperature = temperature;
      logits[at] = kNan;
      const std::string token = "the logit of token " + std::to_string(at) + " of row 0 is ";
      CHECK_THROWS_WITH(run_one(bench, logits, with), Contains(token + "NaN"));
      logits[at] = kInfinity;
      CHECK_THROWS_WITH(run_one(bench, logits, with), Contains(token + "+inf"));
    }
  }
  CHECK_THROWS_WITH(run_one(bench, std::vector<double>(300, -kInfinity), choice),
                    Contains("every logit of row 0 is -inf"));
  const TestTensor rows(Dtype::kFloat32, Shape{3, 2}, std::vector<double>{1, 2, 3, kNan, kInfinity, 0});
  CHECK_THROWS_WITH(run(bench, rows, {choice, choice, choice}), Contains("token 1 of row 1 is NaN"));
}

TEST_CASE("arguments that do not go together are refused") {
  Bench bench;
  const TestTensor logits(Dtype::kFloat32, Shape{2, 4}, std::vector<double>(8, 1.0));
  const TestTensor ids(Dtype::kInt32, Shape{2});
  const std::vector<Choice> rows(2);
  const auto with = [&](Choice choice) {
    sample(bench.stream(), ids.view(), logits.view(), std::vector<Choice>{Choice{}, choice});
  };
  CHECK_NOTHROW(with(Choice{}));
  for (const float temperature : {-1.0f, static_cast<float>(kNan), static_cast<float>(kInfinity)}) {
    Choice choice;
    choice.temperature = temperature;
    CHECK_THROWS_WITH(with(choice), Contains("the temperature must be finite"));
  }
  for (const double top_p : {0.0, -0.5, 1.5, kNan}) {
    Choice choice;
    choice.top_p = top_p;
    CHECK_THROWS_WITH(with(choice), Contains("top_p must be above 0 and at most 1"));
  }
  Choice negative;
  negative.top_k = -1;
  CHECK_THROWS_WITH(with(negative), Contains("top_k must not be negative"));
  CHECK_THROWS_WITH(sample(bench.stream(), ids.view(), logits.view(), std::vector<Choice>(3)),
                    Contains("one choice a row"));
  CHECK_THROWS_WITH(sample(bench.stream(), ids.view().slice(0, 0, 1), logits.view(), rows), Contains("ids is"));
  CHECK_THROWS_WITH(sample(bench.stream(), ids.view(), TestTensor(Dtype::kBfloat16, Shape{2, 4}).view(), rows),
                    Contains("must be fp32"));
  CHECK_THROWS_WITH(sample(bench.stream(), ids.view(), TestTensor(Dtype::kFloat32, Shape{2, 0}).view(), rows),
                    Contains("1 to 2^31 - 1 tokens"));
  CHECK_THROWS_WITH(sample(bench.stream(), ids.view(), logits.view().transposed(0, 1).slice(0, 0, 2), rows),
                    Contains("not contiguous"));
}
