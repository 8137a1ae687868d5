// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to everything that reads a recipe. The bytes up to the first NUL are the recipe, each piece after it is
// the argument of a --set.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/recipe/recipe.h"
#include "stages/shared/yaml/parse.h"

namespace braise {
namespace {

using nlohmann::json;

void require(bool good, const char* what, const std::string& detail) {
  if (good) return;
  std::fprintf(stderr, "broken: %s\n%s\n", what, detail.c_str());
  std::abort();
}

/// What is emitted is read back to the same value. Compared as text, which tells 1 from 1.0 and takes NaN for itself.
void check_round_trip(const json& value) {
  const std::string text = yaml::to_text(value);
  std::vector<yaml::ParseFault> faults;
  const std::optional<yaml::Node> back = yaml::parse(text, "emitted", faults);
  require(back.has_value(), "emitted YAML cannot be read back",
          faults.empty() ? text : faults[0].problem + "\n" + text);
  require(back->to_json().dump() == value.dump(), "emitted YAML reads back to another value", text);
}

void check_faults(const stages::Faults& faults) {
  for (const stages::Fault& fault : faults) {
    require(!fault.problem.empty() && !fault.remedy.empty() && fault.at.file, "a fault says too little",
            to_string(fault));
    const std::string line = to_string(fault);
    for (const char c : line) require(static_cast<unsigned char>(c) >= 0x20, "a fault holds a control character", line);
  }
}

void fuzz_yaml(const std::string& text) {
  std::vector<yaml::ParseFault> faults;
  const std::optional<yaml::Node> node = yaml::parse(text, "input", faults);
  require(node.has_value() == faults.empty(), "a value beside faults, or neither", text);
  for (const yaml::ParseFault& fault : faults) {
    require(!fault.problem.empty() && !fault.remedy.empty() && fault.at.line > 0 && fault.at.column > 0,
            "a parse fault says too little", fault.problem);
  }
  if (node) check_round_trip(node->to_json());
}

/// A resolved recipe is a recipe that resolves to itself.
void check_resolved(const recipe::Recipe& recipe) {
  check_round_trip(recipe.resolved);
  stages::Faults faults;
  const std::string text = yaml::to_text(recipe.resolved);
  const auto document = recipe::load_text(text, "resolved", "/base", {}, faults);
  const auto again = document ? recipe::resolve(*document, {}, faults) : std::nullopt;
  require(again.has_value(), "a resolved recipe is no recipe", stages::to_string(faults) + text);
  require(again->resolved == recipe.resolved, "a resolved recipe resolves to another", text);
  for (const recipe::Stage& stage : recipe.stages) {
    for (const recipe::Reference& reference : stage.references) {
      const json& text_there = stage.config[json::json_pointer(reference.pointer)];
      require(text_there == "${stages." + reference.stage + "." + reference.output + "}", "a reference is not there",
              text);
    }
  }
}

void fuzz_recipe(const std::string& text, const recipe::Overrides& overrides) {
  stages::Faults faults;
  const auto document = recipe::load_text(text, "input", "/base", overrides, faults);
  require(document || !faults.empty(), "no document and no fault", text);
  check_faults(faults);
  if (!document) return;
  const std::vector<recipe::Point> points = recipe::sweep_points(*document, faults);
  require(!points.empty(), "no point", text);
  for (std::size_t i = 0; i < points.size() && i < 3; ++i) {
    const std::size_t faults_before = faults.size();
    const auto resolved = recipe::resolve(*document, points[i], faults);
    require(resolved.has_value() == (faults.size() == faults_before), "a recipe beside faults, or neither", text);
    if (resolved) check_resolved(*resolved);
  }
  check_faults(faults);
}

}  // namespace
}  // namespace braise

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  braise::fuzz_yaml(input);
  const std::size_t end = std::min(input.find('\0'), input.size());
  braise::recipe::Overrides overrides;
  for (std::size_t start = end + 1; start < input.size();) {
    const std::size_t next = std::min(input.find('\0', start), input.size());
    overrides.set.push_back(input.substr(start, next - start));
    start = next + 1;
  }
  braise::fuzz_recipe(input.substr(0, end), overrides);
  return 0;
}
