// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/stages/train/trial.h"

namespace braise::train {
namespace {

using test::Trained;
using test::Trial;

/// A way to spread a training.
struct Layout {
  int ranks = 1;
  int zero = 0;
  std::string home = "none";  ///< of what can lie there
  std::string checkpointing = "none";
  int pipeline = 1;
  int tensor = 1;

  std::string name() const {
    return std::to_string(ranks) + " ranks, zero " + std::to_string(zero) + ", " + home + ", " + checkpointing +
           ", pipeline " + std::to_string(pipeline) + ", tensor " + std::to_string(tensor);
  }
  std::vector<std::string> changes(bool fp32, bool micro) const {
    std::vector<std::string> changes{
        "resources.workers_per_node=" + std::to_string(ranks), "parallel.zero=" + std::to_string(zero),
        "parallel.pipeline=" + std::to_string(pipeline),       "parallel.tensor=" + std::to_string(tensor),
        "activation_checkpointing=" + checkpointing,           "offload.optimizer=" + home};
    if (!fp32) changes.push_back("offload.master=" + home);
    if (zero >= 2 || micro) changes.push_back("offload.gradients=" + home);
    if (zero == 3) changes.push_back("offload.parameters=" + home);
    if (checkpointing == "half" || checkpointing == "all") changes.push_back("offload.activations=" + home);
    return changes;
  }
};

/// Trains on every layout, stopped on the way and resumed on the next layout of the list. All are of one tensor width.
void check_layouts(const Trial& trial, const std::string& name, const std::vector<std::string>& model,
                   const std::vector<Layout>& layouts) {
  const bool fp32 = std::ranges::find(model, "precision.compute=fp32") != model.end();
  for (const std::string reduction : {"step", "micro"}) {
    const auto config = [&](const Layout& layout) {
      std::vector<std::string> changes = model;
      changes.push_back("numerics.reduction=" + reduction);
      for (const std::string& change : layout.changes(fp32, reduction == "micro")) changes.push_back(change);
      return trial.config(changes);
    };
    const std::string prefix = name + "-" + reduction;
    const int tensor = layouts.front().tensor;
    const Trained alone =
        trial.run("1-" + prefix + "-alone", config({.ranks = tensor, .tensor = tensor}), {.ranks = tensor});
    INFO(prefix << alone.error);
    REQUIRE(alone.losses.size() == 6);
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
      CHECK(second.weights() == alone.weights());
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
                {"precision.compute=fp16", "precision.loss_scale.initial=1e9", "model.tied=true",
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
                {"precision.compute=fp16", "precision.loss_scale.initial=1e9", "model.family=gpt2", "model.kv_heads=0",
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

// Some hundred trainings: run by hand, as tests/README.md says.
TEST_CASE("a training has the same bits on every layout", "[.layouts]") {
  std::vector<Layout> layouts;
  for (const int zero : {0, 1, 2, 3}) {
    for (const std::string home : {"none", "host", "nvme"}) {
      for (const std::string checkpointing : {"none", "all"}) {
        for (const int ranks : {1, 2, 4, 8}) {
          layouts.push_back({ranks, zero, home, checkpointing});
          if (zero <= 1 && ranks > 1) layouts.push_back({ranks, zero, home, checkpointing, 2});
        }
      }
    }
  }
  const Trial trial;
  check_layouts(trial, "llama", {"precision.compute=bf16", "validation.every=3"}, layouts);
}

}  // namespace
}  // namespace braise::train
