// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "runner/recipe/recipe.h"

namespace braise::recipe {
namespace {

using nlohmann::json;

struct Swept {
  std::vector<json> points;
  std::string faults;
};

Document loaded(const std::string& text) {
  stages::Faults faults;
  std::optional<Document> document = load_text(text, "r.yaml", "/base", {}, faults);
  REQUIRE(document);
  REQUIRE(faults.empty());
  return *document;
}

Swept sweep(const std::string& sweep_key) {
  const Document document =
      loaded("recipe: 1\nname: x\nvars: {a: 0, b: 0}\n" + sweep_key + "stages: {s: {kind: check}}\n");
  stages::Faults faults;
  Swept swept;
  for (const Point& point : sweep_points(document, faults)) {
    json values = json::array();
    for (const auto& [path, value] : point.values) values.push_back({path, value.to_json()});
    swept.points.push_back(values);
  }
  swept.faults = stages::to_string(faults);
  return swept;
}

TEST_CASE("without a sweep there is one empty point") {
  const Swept swept = sweep("");
  CHECK(swept.points == std::vector<json>{json::array()});
  CHECK(sweep("sweep: {}\n").points == swept.points);
  CHECK(sweep("sweep: {zip: []}\n").points == swept.points);
}

TEST_CASE("lists make a grid, the last one runs fastest") {
  const Swept swept = sweep("sweep: {vars.a: [1, 2], vars.b: [x, y]}\n");
  CHECK(swept.faults == "");
  CHECK(json(swept.points) == json::parse(R"([[["vars.a", 1], ["vars.b", "x"]], [["vars.a", 1], ["vars.b", "y"]],
                                              [["vars.a", 2], ["vars.b", "x"]], [["vars.a", 2], ["vars.b", "y"]]])"));
}

TEST_CASE("zipped lists count as one") {
  const Swept swept = sweep("sweep:\n  zip: [{vars.a: [1, 2], seed: [3, 4]}]\n  vars.b: [5, 6]\n");
  CHECK(swept.faults == "");
  CHECK(json(swept.points) ==
        json::parse(R"([[["vars.a", 1], ["seed", 3], ["vars.b", 5]], [["vars.a", 1], ["seed", 3], ["vars.b", 6]],
                                              [["vars.a", 2], ["seed", 4], ["vars.b", 5]], [["vars.a", 2], ["seed", 4], ["vars.b", 6]]])"));
}

/// The values of one path at all points of a random search.
std::vector<json> drawn(const std::string& parameter, int samples, int seed = 0, const std::string& more = "") {
  const Swept swept = sweep("sweep: {random: {samples: " + std::to_string(samples) + ", seed: " + std::to_string(seed) +
                            ", parameters: {" + more + parameter + "}}}\n");
  CHECK(swept.faults == "");
  std::vector<json> values;
  for (const json& point : swept.points) values.push_back(point.back().at(1));
  return values;
}

TEST_CASE("random search draws within bounds, each value as likely") {
  int low = 0, small = 0;
  for (const json& value : drawn("vars.a: {uniform: [-1, 3]}", 2000)) {
    CHECK((value >= -1 && value <= 3));
    low += value < 0 ? 1 : 0;
  }
  CHECK(std::abs(low - 500) < 80);  // 4 standard deviations
  for (const json& value : drawn("vars.a: {log_uniform: [1e-5, 1e-1]}", 2000)) {
    CHECK((value >= 1e-5 && value <= 1e-1));
    small += value < 1e-4 ? 1 : 0;
  }
  CHECK(std::abs(small - 500) < 80);
  std::map<json, int> integers, chosen;
  for (const json& value : drawn("vars.a: {integer: [3, 6]}", 2000)) ++integers[value];
  CHECK(integers.size() == 4);
  CHECK(integers.begin()->first == 3);
  CHECK(integers.rbegin()->first == 6);
  for (const json& value : drawn("vars.a: {choice: [x, {y: 1}, 7, 1.5]}", 2000)) ++chosen[value];
  CHECK(chosen.size() == 4);
  for (const auto& counts : {integers, chosen}) {
    for (const auto& [value, count] : counts) CHECK(std::abs(count - 500) < 80);
  }
}

TEST_CASE("a drawn value depends on seed, path and number of the sample alone") {
  const std::string lr = "vars.a: {log_uniform: [1e-4, 1e-2]}";
  const std::vector<json> few = drawn(lr, 4), many = drawn(lr, 40);
  CHECK(few == std::vector<json>(many.begin(), many.begin() + 4));
  CHECK(few == drawn(lr, 4, 0, "seed: {integer: [1, 9]}, "));
  CHECK(few != drawn(lr, 4, 1));
  CHECK(few != drawn("vars.b: {log_uniform: [1e-4, 1e-2]}", 4));
  // Recipes of earlier days must mean the same points.
  CHECK(json(few).dump() == "[0.000243079,0.00253595,0.00020034,0.000677289]");
  CHECK(json(drawn("vars.a: {integer: [0, 1000000]}", 3, 7)).dump() == "[279315,495382,428323]");
}

TEST_CASE("random search is one list among others") {
  const Swept swept = sweep(
      "sweep:\n  vars.b: [1, 2]\n  random: {samples: 3, parameters: {vars.a: {choice: [x]}, seed: {choice: [5]}}}\n");
  CHECK(swept.faults == "");
  REQUIRE(swept.points.size() == 6);
  CHECK(swept.points[4] == json::parse(R"([["vars.b", 2], ["vars.a", "x"], ["seed", 5]])"));
}

TEST_CASE("a faulty sweep leaves one point, of what is right in it") {
  const Swept swept = sweep("sweep: {vars.a: [1, 2], vars.b: []}\n");
  CHECK(swept.faults.find("sweep.vars.b: has 0 items") != std::string::npos);
  CHECK(json(swept.points) == json::parse(R"([[["vars.a", 1]]])"));
}

TEST_CASE("a sweep cannot explode") {
  std::string text = "sweep:\n";
  for (int i = 0; i < 101; ++i) text += "  stages.s" + std::to_string(i) + ": [1, 2]\n";
  const Swept paths = sweep(text);
  CHECK(paths.points.size() == 1);
  CHECK(paths.faults.find("has more than 100 paths") != std::string::npos);
  text = "sweep: {random: {samples: 100000, parameters: {";
  for (int i = 0; i < 11; ++i) text += "stages.s" + std::to_string(i) + ": {choice: [1]}, ";
  CHECK(sweep(text + "seed: {choice: [1]}}}}\n").faults.find("draws more than 1000000 values") != std::string::npos);
}

TEST_CASE("a swept value stands in the recipe as if it were written there") {
  const Document document = loaded(
      "recipe: 1\nname: x\nvars: {a: 16}\nsweep: {vars.a: [32, 64], stages.s.resources.threads: [3]}\n"
      "stages: {s: {kind: check, gemm_size: \"${vars.a}\"}}\n");
  stages::Faults faults;
  const std::vector<Point> points = sweep_points(document, faults);
  REQUIRE(points.size() == 2);
  const Recipe recipe = resolve(document, points[1], faults).value();
  CHECK(recipe.stages[0].config["gemm_size"] == 64);
  CHECK(recipe.stages[0].resources.threads == 3);
  CHECK(recipe.resolved["vars"]["a"] == 64);
  CHECK_FALSE(recipe.resolved.contains("sweep"));
}

TEST_CASE("ten thousand points of two stages take little time") {
  std::string text = "recipe: 1\nname: x\nvars: {size: 2MiB, fraction: 0}\nsweep:\n";
  const std::pair<const char*, int> lists[] = {
      {"seed", 0}, {"stages.a.gemm_size", 16}, {"stages.b.resources.threads", 1}, {"stages.b.shard_size", 4096}};
  for (const auto& [path, first] : lists) {
    text += std::string("  ") + path + ": [" + std::to_string(first);
    for (int i = 1; i < 10; ++i) text += ", " + std::to_string(first + i);
    text += "]\n";
  }
  text +=
      "stages:\n  a: {kind: check, after: [b]}\n"
      "  b: {kind: tokenize, input: data/*.txt, validation: {fraction: \"${vars.fraction}\"}}\n";
  const Document document = loaded(text);
  const auto start = std::chrono::steady_clock::now();
  stages::Faults faults;
  const std::vector<Point> points = sweep_points(document, faults);
  REQUIRE(points.size() == 10'000);
  for (const Point& point : points) {
    if (!resolve(document, point, faults)) break;
  }
  CHECK(stages::to_string(faults) == "");
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  WARN("10,000 points took " << seconds << " s");
  CHECK(seconds < 30);  // an instrumented build on a busy machine; an optimised one alone takes 0.3 s
}

}  // namespace
}  // namespace braise::recipe
