// SPDX-License-Identifier: Apache-2.0
#include "stages/train/fit.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/stages/train/trial.h"

namespace braise::train {
namespace {

using test::Trained;
using test::Trial;

stages::Resources with_memory(int ranks, std::uint64_t device_bytes) {
  return {1, ranks, 1, "cpu", device_bytes, std::uint64_t{1} << 30, 0, 0, 0};
}

TEST_CASE(
    "a layout that is proposed fits, asks for no more than it must, and trains within the budget to the same bits") {
  const Trial trial;
  const std::vector<std::string> model{
      "model.hidden=128",         "model.layers=4",         "model.vocabulary=257", "numerics.lanes=2",
      "numerics.reduction=micro", "precision.compute=bf16", "optimizer.kind=adamw", "steps=3"};
  const nlohmann::json config = trial.config(model);
  const auto whole = fit(config, with_memory(2, 0), {}).value();
  CHECK(whole.fits);
  CHECK(whole.changes.empty());
  const Trained free = trial.run("1-free", config, {.ranks = 2});
  REQUIRE(free.losses.size() == 3);

  std::uint64_t budget = whole.device_bytes * 9 / 8;
  std::size_t most_changes = 0;
  for (int tries = 0; tries < 6; ++tries) {
    budget = budget * 9 / 10;
    const auto found = fit(config, with_memory(2, budget), {}).value();
    INFO(budget << " bytes");
    if (!found.fits) break;
    CHECK(found.device_bytes < budget);
    std::vector<std::string> changes = model;
    for (const stages::Fit::Change& change : found.changes) {
      CHECK(change.saved_bytes > 0);
      changes.push_back(change.key + "=" + change.value);
    }
    const nlohmann::json changed = trial.config(changes);
    CHECK(fit(changed, with_memory(2, budget), {}).value().changes.empty());
    const Trained trained =
        trial.run("1-budget" + std::to_string(tries), changed, {.ranks = 2, .device_memory = budget});
    INFO(trained.error);
    CHECK(trained.losses == free.losses);
    CHECK(trained.weights() == free.weights());
    most_changes = std::max(most_changes, found.changes.size());
  }
  CHECK(most_changes >= 2);

  const auto nothing = fit(config, with_memory(2, 100'000), {}).value();
  CHECK_FALSE(nothing.fits);
  CHECK(nothing.changes.empty());
  CHECK(nothing.device_bytes > 100'000);
  CHECK(nothing.device_bytes < whole.device_bytes / 2);

  nlohmann::json elsewhere = config;
  elsewhere["model"]["from"] = "model.gguf";
  CHECK_FALSE(fit(elsewhere, with_memory(2, 0), {}));
}

TEST_CASE("a layout is proposed for ranks that share blocks and have stages of them, and fits") {
  const Trial trial;
  const std::vector<std::string> model{"model.hidden=128",       "model.layers=4",      "model.vocabulary=257",
                                       "precision.compute=bf16", "numerics.lanes=2",    "resources.workers_per_node=4",
                                       "parallel.tensor=2",      "parallel.pipeline=2", "steps=2"};
  const nlohmann::json config = trial.config(model);
  const auto whole = fit(config, with_memory(4, 0), {}).value();
  CHECK(whole.changes.empty());
  const std::uint64_t budget = whole.device_bytes;  // a part of which is left for what lies in pieces
  const auto found = fit(config, with_memory(4, budget), {}).value();
  REQUIRE(found.fits);
  CHECK_FALSE(found.changes.empty());
  std::vector<std::string> changes = model;
  for (const stages::Fit::Change& change : found.changes) changes.push_back(change.key + "=" + change.value);
  const Trained free = trial.run("1-free", config, {.ranks = 4});
  const Trained trained = trial.run("1-budget", trial.config(changes), {.ranks = 4, .device_memory = budget});
  INFO(trained.error);
  REQUIRE(trained.losses.size() == 2);
  CHECK(trained.losses == free.losses);
  CHECK(trained.weights() == free.weights());
}

}  // namespace
}  // namespace braise::train
