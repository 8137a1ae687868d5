// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "tests/stages/train/layouts.h"
#include "tests/stages/train/trial.h"

namespace braise::train {
namespace {

using test::Layout;
using test::Row;
using test::Trained;
using test::Trial;

/// Whether some step changed the weights: fp16's are left out while the loss scale comes down.
bool moves(const Trained& trained) {
  return std::ranges::any_of(trained.lines, [](const nlohmann::json& line) {
    return line.contains("grad_norm") && line.at("grad_norm").is_number();
  });
}

/// Trains on every layout, stopped on the way and resumed on the next layout of the list. All are of one tensor width.
void check_layouts(const Trial& trial, const std::string& name, const std::vector<std::string>& model,
                   const std::vector<Layout>& layouts) {
  const bool fp32 = std::ranges::find(model, "precision.compute=fp32") != model.end();
  for (const std::string reduction : {"step", "micro"}) {
    const auto config = [&](const Layout& layout) {
      std::vector<std::string> changes = model;
      for (const std::string& change : layout.changes(fp32, reduction)) changes.push_back(change);
      return trial.config(changes);
    };
    const std::string prefix = name + "-" + reduction;
    const int tensor = layouts.front().tensor;
    const Trained alone =
        trial.run("1-" + prefix + "-alone", config({.ranks = tensor, .tensor = tensor}), {.ranks = tensor});
    INFO(prefix << alone.error);
    REQUIRE(alone.losses.size() == 6);
    REQUIRE(moves(alone));
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      const Layout& layout = layouts[i];
      const Layout& next = layouts[(i + 1) % layouts.size()];
      const std::string number = prefix + std::to_string(i);
      const Trained first = trial.run("1-first" + number, config(layout), {.ranks = layout.ranks, .stop_after = 3});
      const Trained second =
          trial.run("2-second" + number, config(next), {.ranks = next.ranks, .earlier = {"1-first" + number}});
      INFO(prefix << " on " << layout.name() << ", resumed on " << next.name() << ": " << first.error << second.error);
      std::vector<std::string> losses = first.losses;
      losses.insert(losses.end(), second.losses.begin(), second.losses.end());
      CHECK(losses == alone.losses);
      CHECK(second.state() == alone.state());
    }
  }
}

TEST_CASE("a training has the same bits however it is spread") {
  const Trial trial;
  check_layouts(trial, "llama", {"precision.compute=bf16", "validation.every=3"},
                {{1, 0, "nvme", "none"},
                 {2, 1, "none", "none"},
                 {4, 2, "nvme", "all"},
                 {2, 3, "none", "none"},
                 {4, 3, "host", "half"},
                 {1, 3, "nvme", "attention"},
                 {8, 1, "host", "none"},
                 {8, 3, "nvme", "none"}});
  check_layouts(
      trial, "gpt2",
      {"precision.compute=fp32", "model.family=gpt2", "model.kv_heads=0", "model.tied=true",
       "model.dropout.residual=0.1", "precision.gradients=bf16", "freeze=['*.h.0.mlp.*']", "validation.every=4"},
      {{2, 3, "host", "all"}, {4, 1, "nvme", "none"}, {1, 2, "none", "none"}, {2, 2, "nvme", "half"}});
  check_layouts(trial, "fp16",
                {"precision.compute=fp16", "precision.loss_scale.initial=1e7", "model.tied=true",
                 "optimizer.groups=[{match: '*norm*', lr_scale: 0.5}]"},
                {{2, 1, "none", "none"}, {4, 3, "nvme", "none"}, {2, 2, "host", "none"}});
}

TEST_CASE("a training has the same bits on any number of stages") {
  const Trial trial;
  check_layouts(
      trial, "staged", {"precision.compute=bf16", "validation.every=3", "model.layers=3"},
      {{2, 0, "none", "none", 2}, {1, 0, "none", "none"}, {3, 0, "none", "all", 3}, {4, 1, "nvme", "half", 2}});
  // Both ends have the embedding.
  check_layouts(trial, "tied",
                {"precision.compute=fp32", "model.family=gpt2", "model.kv_heads=0", "model.tied=true",
                 "model.dropout.residual=0.1", "precision.gradients=bf16", "freeze=['*.h.0.mlp.*']"},
                {{4, 1, "none", "none", 2}, {2, 1, "none", "none"}, {2, 0, "none", "all", 2}});
}

TEST_CASE("ranks that share blocks have the same bits however the training is spread besides") {
  const Trial trial;
  for (const int tensor : {2, 4}) {
    check_layouts(trial, "shared" + std::to_string(tensor), {"precision.compute=bf16", "validation.every=3"},
                  {{tensor, 0, "none", "none", 1, tensor}, {2 * tensor, 1, "nvme", "all", 3 - tensor / 2, tensor}});
  }
  check_layouts(trial, "sharedtied",
                {"precision.compute=fp16", "precision.loss_scale.initial=1e7", "model.family=gpt2", "model.kv_heads=0",
                 "model.tied=true", "model.dropout.attention=0.1"},
                {{4, 3, "none", "half", 1, 2}, {4, 1, "none", "none", 2, 2}, {4, 2, "host", "none", 1, 2}});
}

TEST_CASE("ranks that share blocks train as one does, within rounding, and one goes on where they stopped") {
  const Trial trial;
  const auto run = [&](const std::string& name, int tensor, const std::vector<std::string>& earlier = {},
                       std::int64_t stop_after = -1) {
    return trial.run(name,
                     trial.config({"precision.compute=fp32", "resources.workers_per_node=" + std::to_string(tensor),
                                   "parallel.tensor=" + std::to_string(tensor)}),
                     {.ranks = tensor, .earlier = earlier, .stop_after = stop_after});
  };
  const auto told = [](const Trained& trained, const char* key) {
    INFO(trained.error);
    std::vector<double> found;
    for (const auto& line : trained.lines) {
      if (line.contains("loss_bits")) found.push_back(line.at(key));
    }
    return found;
  };
  const auto losses = [&](const Trained& trained) { return told(trained, "loss"); };
  const Trained one = run("1-alone", 1);
  const std::vector<double> alone = losses(one);
  REQUIRE(alone.size() == 6);
  // A loss near 5 is rounded a few hundred times on its way; weights move by at most the learning rate a step.
  const auto close = [&](const std::vector<double>& got, std::size_t first) {
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(alone[first + i]).epsilon(1e-4));
  };
  for (const int tensor : {2, 4}) {
    const std::string name = std::to_string(tensor);
    const Trained both = run("1-shared" + name, tensor);
    const std::vector<double> shared = losses(both);
    REQUIRE(shared.size() == 6);
    // Elements that several ranks have are counted once.
    CHECK(told(both, "grad_norm").front() == Approx(told(one, "grad_norm").front()).epsilon(1e-5));
    CHECK(shared.front() == Approx(alone.front()).epsilon(1e-6));
    close(shared, 0);
    const std::vector<double> begun = losses(run("1-begun" + name, tensor, {}, 3));
    const std::vector<double> ended = losses(run("2-ended" + name, 1, {"1-begun" + name}));
    CHECK(begun.size() + ended.size() == 6);
    close(begun, 0);
    close(ended, begun.size());
  }
}

TEST_CASE("ranks that share blocks save by way of the disk where the host's memory has no room, with the same bits") {
  const Trial trial;
  const nlohmann::json config = trial.config({"precision.compute=bf16", "resources.workers_per_node=2", "steps=2",
                                              "parallel.tensor=2", "model.hidden=128", "model.vocabulary=3000"});
  const Trained roomy = trial.run("1-roomy", config, {.ranks = 2});
  const Trained tight = trial.run("1-tight", config, {.ranks = 2, .host_memory = std::uint64_t{8} << 20});
  INFO(roomy.error << tight.error);
  constexpr const char* kTold = "has no room for ";
  CHECK_THAT(roomy.log, !Catch::Contains(kTold));
  CHECK_THAT(tight.log, Catch::Contains(kTold));
  CHECK(tight.losses == roomy.losses);
  CHECK(tight.weights() == roomy.weights());
}

/// A model of the matrix.
struct Variant {
  std::string name;
  std::vector<std::string> changes;
  int tensor = 1;
  bool all = false;  ///< every legal row; else some with every pair of values
};

/// Trains the rows of one model, each against the same training alone; a line of a table for each order of sums.
void check_rows(const Trial& trial, const Variant& variant) {
  static constexpr int kKilledAfter = 4;
  static constexpr char kKilled[] = "killed";
  const bool fp32 = std::ranges::find(variant.changes, "precision.compute=fp32") != variant.changes.end();
  const auto changes = [&](const Row& row, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = variant.changes;
    for (const std::string& change : row.layout.changes(fp32, row.reduction)) all.push_back(change);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  std::vector<Row> legal;
  std::size_t combinations = 0;
  for (const Row& row : test::all_rows(variant.tensor)) {
    ++combinations;
    INFO(variant.name << " on " << row.layout.name() << ", " << row.reduction);
    CHECK(trial.is_accepted(changes(row)) == test::is_legal(row));
    if (test::is_legal(row)) legal.push_back(row);
  }
  const std::vector<Row> rows = variant.all ? legal : test::pairwise(legal);
  int number = 0;
  std::string state_before;
  for (const std::string reduction : {"step", "micro"}) {
    std::vector<Row> those;
    std::ranges::copy_if(rows, std::back_inserter(those), [&](const Row& row) { return row.reduction == reduction; });
    const Row alone_on{{.ranks = variant.tensor, .tensor = variant.tensor}, reduction};
    const std::string prefix = std::to_string(variant.tensor) + variant.name + reduction;
    const Trained alone = trial.run("1-" + prefix, trial.config(changes(alone_on)), {.ranks = alone_on.layout.ranks});
    INFO(prefix << alone.error);
    REQUIRE(alone.losses.size() == 6);
    REQUIRE(moves(alone));
    CHECK(alone.state() != std::exchange(state_before, alone.state()));  // each has bits of its own
    std::size_t passed = 0;
    for (std::size_t i = 0; i < those.size(); ++i) {
      const Row& row = those[i];
      const Row& next = those[(i + 1) % those.size()];
      const std::string name = prefix + std::to_string(++number);
      Trained first, last;
      if (row.killed) {
        // Each checkpoint waits for the one before: the last but one is whole when the ranks end.
        first = trial.run("1-" + name, trial.config(changes(row, {"checkpoint.every=1"})),
                          {.ranks = row.layout.ranks, .on_step = [](std::int64_t steps) {
                             if (steps == kKilledAfter) throw core::Error(kKilled);
                           }});
      }
      const Row& ends = row.killed ? next : row;
      last = trial.run("2-" + name, trial.config(changes(ends)),
                       {.ranks = ends.layout.ranks,
                        .earlier = row.killed ? std::vector<std::string>{"1-" + name} : std::vector<std::string>{}});
      INFO(variant.name << " on " << row.layout.name() << ", " << reduction
                        << (row.killed ? ", killed and gone on with on " + next.layout.name() : "") << ": "
                        << last.error);
      bool same = last.error.empty() && last.state() == alone.state();
      CHECK(same);
      const auto begins_as = [&](const std::vector<std::string>& losses) {
        return std::equal(losses.begin(), losses.end(), alone.losses.begin());
      };
      if (row.killed) {
        CHECK(first.error == kKilled);
        const bool goes_on = first.losses.size() == kKilledAfter && begins_as(first.losses) &&
                             last.losses.size() >= 2 && last.losses.size() <= 3 &&
                             std::equal(last.losses.rbegin(), last.losses.rend(), alone.losses.rbegin());
        CHECK(goes_on);
        same = same && goes_on;
      } else {
        CHECK(last.losses == alone.losses);
        same = same && last.losses == alone.losses;
      }
      passed += same ? 1 : 0;
      std::filesystem::remove_all(trial.attempt_dir("1-" + name));
      std::filesystem::remove_all(trial.attempt_dir("2-" + name));
    }
    std::printf("| %-20s | %6d | %-5s | %4zu of %4zu | %4zu | %4zu | %s |\n", variant.name.c_str(), variant.tensor,
                reduction.c_str(), static_cast<std::size_t>(std::ranges::count(legal, reduction, &Row::reduction)),
                combinations / 2, those.size(), passed, alone.weights().c_str());
    std::fflush(stdout);
  }
}

TEST_CASE("some rows of the matrix of layouts have every pair of values that all legal ones have") {
  for (const int tensor : {1, 2, 4}) {
    std::vector<Row> legal = test::all_rows(tensor);
    std::erase_if(legal, [](const Row& row) { return !test::is_legal(row); });
    const std::vector<Row> some = test::pairwise(legal);
    CHECK(test::pairs(some) == test::pairs(legal));
    CHECK(some.size() < legal.size() / 8);
    CHECK(std::ranges::all_of(some, test::is_legal));
  }
}

// Some thousand trainings: run by hand, as tests/README.md says.
TEST_CASE("a training has the same bits on every layout", "[.layouts]") {
  const std::vector<std::string> gpt2{"model.family=gpt2", "model.kv_heads=0", "model.tied=true",
                                      "model.dropout.residual=0.1", "model.dropout.attention=0.1"};
  const auto with = [](std::vector<std::string> changes, const std::string& compute) {
    changes.push_back("precision.compute=" + compute);
    if (compute == "fp16") changes.emplace_back("precision.loss_scale.initial=1e7");  // which overflows at first
    return changes;
  };
  const Trial trial;
  std::printf(
      "| model                | tensor | sums  | legal        | run  | same | weights "
      "|\n|---|---|---|---|---|---|---|\n");
  check_rows(trial, {"llama-bf16", with({"validation.every=3"}, "bf16"), 1, true});
  for (const std::string compute : {"fp32", "fp16"}) {
    check_rows(trial, {"llama-" + compute, with({}, compute)});
    check_rows(trial, {"gpt2-" + compute, with(gpt2, compute)});
  }
  check_rows(trial, {"gpt2-bf16", with(gpt2, "bf16")});
  for (const int tensor : {2, 4}) {
    check_rows(trial, {"llama-bf16", with({}, "bf16"), tensor});
    check_rows(trial, {"gpt2-fp32", with(gpt2, "fp32"), tensor});
  }
}

}  // namespace
}  // namespace braise::train
