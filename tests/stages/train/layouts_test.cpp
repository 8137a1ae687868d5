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

  std::string name() const {
    return std::to_string(ranks) + " ranks, zero " + std::to_string(zero) + ", " + home + ", " + checkpointing;
  }
  std::vector<std::string> changes(bool fp32, bool micro) const {
    std::vector<std::string> changes{"parallel.zero=" + std::to_string(zero),
                                     "activation_checkpointing=" + checkpointing, "offload.optimizer=" + home};
    if (!fp32) changes.push_back("offload.master=" + home);
    const std::string memory = home == "nvme" ? "host" : home;
    if (zero >= 2 || micro) changes.push_back("offload.gradients=" + memory);
    if (zero == 3) changes.push_back("offload.parameters=" + memory);
    return changes;
  }
};

/// Trains on every layout, stopped on the way and resumed on the next layout of the list.
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
    const Trained alone = trial.run("1-" + prefix + "-alone", config({}));
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

}  // namespace
}  // namespace braise::train
