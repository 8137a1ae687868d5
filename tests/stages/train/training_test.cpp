// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "stages/shared/checkpoint/manifest.h"
#include "stages/shared/model/config.h"
#include "stages/shared/telemetry/metrics_lines.h"
#include "tests/stages/train/trial.h"

namespace braise::train {
namespace {
namespace fs = std::filesystem;

using Catch::Contains;
using nlohmann::json;
using test::Trained;
using test::Trial;

using Options = Trial::Options;

double last_loss(const Trained& trained) {
  double loss = 0;
  for (const json& line : trained.lines) {
    if (line.contains("loss") && line.at("loss").is_number()) loss = line.at("loss");
  }
  return loss;
}

TEST_CASE("weights and losses have the same bits on 1, 2, 4 and 8 ranks, whatever is computed again or saved") {
  const Trial trial;
  const Trained alone = trial.run("1-alone", trial.config());
  INFO(alone.error << alone.log);
  REQUIRE(alone.losses.size() == 6);
  CHECK(last_loss(alone) < 5);
  const auto same = [&](const std::string& name, const std::vector<std::string>& changes, const Options& options) {
    const Trained other = trial.run("1-" + name, trial.config(changes), options);
    INFO(name << ": " << other.error);
    CHECK(other.losses == alone.losses);
    CHECK(other.weights() == alone.weights());
  };
  for (const int ranks : {2, 4, 8}) same("ranks" + std::to_string(ranks), {}, {.ranks = ranks});
  same("threads", {}, {.ranks = 2, .threads = 3});
  for (const std::string kind : {"attention", "half", "all"}) same(kind, {"activation_checkpointing=" + kind}, {});
  same("prefetch", {"data.prefetch=0"}, {});
  same("saving", {"checkpoint.every=1", "validation.every=2", "trace=[2,3]"}, {.ranks = 2});
}

TEST_CASE("a training done by jobs one after another has the bits of one job's") {
  const Trial trial;
  const Trained whole = trial.run("1-whole", trial.config());
  INFO(whole.error << whole.log);
  const Trained first = trial.run("1-first", trial.config({"until=2"}));
  INFO(first.error << first.log);
  REQUIRE(first.losses.size() == 2);
  CHECK(first.checkpoint().step() == 2);
  CHECK(first.checkpoint().metric().has_value());
  CHECK(first.lines.back().at("steps") == 2);
  const auto go_on = [&](const std::string& name, const Trained& from, const std::vector<std::string>& changes,
                         const Options& options = {}) {
    std::vector<std::string> all = changes;
    all.push_back("continue_from=" + from.checkpoint().folder().string());
    return trial.run(name, trial.config(all), options);
  };
  const Trained second = go_on("1-second", first, {"until=4"}, {.ranks = 2});
  INFO(second.error << second.log);
  const Trained third = go_on("1-third", second, {});
  INFO(third.error << third.log);
  std::vector<std::string> losses = first.losses;
  losses.insert(losses.end(), second.losses.begin(), second.losses.end());
  losses.insert(losses.end(), third.losses.begin(), third.losses.end());
  CHECK(losses == whole.losses);
  CHECK(third.weights() == whole.weights());
  CHECK(third.checkpoint().metric() == whole.checkpoint().metric());
  CHECK_THAT(go_on("1-back", second, {"until=3"}).error, Contains("after this job's end at step 3"));
  CHECK_THAT(trial.run("1-none", trial.config({"continue_from=" + trial.folder().string()})).error,
             Contains("is no checkpoint"));
}

TEST_CASE("gradients rounded to bf16 have the same bits on 1, 2, 4 and 8 ranks, and others than in fp32") {
  const Trial trial;
  const json config = trial.config({"precision.gradients=bf16", "model.tied=true"});
  const Trained alone = trial.run("1-alone", config);
  INFO(alone.error << alone.log);
  REQUIRE(alone.losses.size() == 6);
  for (const int ranks : {2, 4, 8}) {
    const Trained other = trial.run("1-ranks" + std::to_string(ranks), config, {.ranks = ranks});
    INFO(other.error);
    CHECK(other.losses == alone.losses);
    CHECK(other.weights() == alone.weights());
  }
  const Trained whole = trial.run("1-fp32", trial.config({"model.tied=true"}));
  CHECK(whole.losses.front() == alone.losses.front());
  CHECK(whole.losses.back() != alone.losses.back());
  CHECK(last_loss(alone) == Approx(last_loss(whole)).epsilon(0.01));
}

TEST_CASE("a training of every precision and optimizer learns, and is stopped and resumed to the same bits") {
  const Trial trial;
  const std::vector<std::vector<std::string>> kinds{
      {"precision.compute=bf16"},
      {"precision.gradients=bf16"},
      {"precision.compute=fp32", "model.family=gpt2", "model.kv_heads=0", "model.dropout.residual=0.1",
       "model.dropout.attention=0.1", "model.dropout.embedding=0.1"},
      {"precision.compute=fp16", "precision.loss_scale.interval=2"},
      {"optimizer.kind=sgd", "optimizer.lr=0.3", "optimizer.momentum=0.9", "optimizer.nesterov=true"},
      {"optimizer.kind=rmsprop", "optimizer.lr=1e-3", "optimizer.momentum=0.5"},
      {"optimizer.kind=adam", "data.cut=documents", "data.document_mask=true", "loss.z_loss=1e-3"},
      {"data.cut=random", "schedule.kind=wsd", "loss.label_smoothing=0.1", "model.tied=true"}};
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    std::vector<std::string> changes = kinds[i];
    const std::string name = std::to_string(i);
    const json config = trial.config(changes);
    const Trained straight = trial.run("1-straight" + name, config);
    INFO(name << ": " << straight.error << straight.log);
    REQUIRE(straight.losses.size() == 6);
    CHECK(last_loss(straight) < 5.4);

    const Trained first = trial.run("1-first" + name, config, {.ranks = 2, .stop_after = 2});
    INFO(first.error);
    CHECK(first.ending == stages::Ending::stopped);
    CHECK(first.losses.size() == 2);
    // More ranks than before, and stopped once more.
    const Trained second =
        trial.run("2-second" + name, config, {.ranks = 4, .earlier = {"1-first" + name}, .stop_after = 1});
    INFO(second.error);
    const Trained third = trial.run("3-third" + name, config, {.earlier = {"2-second" + name, "1-first" + name}});
    INFO(third.error);
    CHECK(third.ending == stages::Ending::completed);
    std::vector<std::string> losses = first.losses;
    losses.insert(losses.end(), second.losses.begin(), second.losses.end());
    losses.insert(losses.end(), third.losses.begin(), third.losses.end());
    CHECK(losses == straight.losses);
    CHECK(third.weights() == straight.weights());
  }
}

TEST_CASE("micro-batches of other sizes change no more than rounding") {
  const Trial trial;
  const auto run = [&](const std::string& micro) {
    return trial.run("1-micro" + micro, trial.config({"precision.compute=fp32", "batch.micro=" + micro,
                                                      "numerics.lanes=1", "optimizer.kind=sgd", "optimizer.lr=0.1"}));
  };
  const Trained one = run("1"), eight = run("8");
  REQUIRE(one.lines.size() == eight.lines.size());
  int compared = 0;
  for (std::size_t i = 0; i < one.lines.size(); ++i) {
    if (!one.lines[i].contains("loss")) continue;
    CHECK(one.lines[i].at("loss").get<double>() == Approx(eight.lines[i].at("loss").get<double>()).epsilon(2e-6));
    ++compared;
  }
  CHECK(compared == 6);
  CHECK(one.weights() != eight.weights());
}

TEST_CASE(
    "a scratch file that fails while a checkpoint is made of it is an error that names it, and the one before stands") {
  const Trial trial;
  const std::vector<std::string> on_disk{"offload.optimizer=nvme", "offload.master=nvme", "offload.parameters=nvme",
                                         "parallel.zero=3", "checkpoint.every=2"};
  const Trained alone = trial.run("1-alone", trial.config());
  // With a copy of the state in the host's memory, and written from where it lies.
  for (const std::uint64_t host_memory : {std::uint64_t{1} << 30, std::uint64_t{400} << 10}) {
    const std::string number = std::to_string(host_memory);
    const fs::path scratch = trial.scratch_dir("1-failing" + number);
    const auto cut_off = [&](std::int64_t steps) {
      if (steps != 3) return;
      for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        const std::string target = fs::read_symlink(entry.path(), gone).string();
        if (target.starts_with(scratch.string() + "/")) fs::resize_file(entry.path(), 4096);
      }
    };
    const Trained failing = trial.run("1-failing" + number, trial.config(on_disk),
                                      {.stop_after = 3, .on_step = cut_off, .host_memory = host_memory});
    INFO(failing.log);
    CHECK_THAT(failing.error, Contains("the scratch file in " + scratch.string()));
    const bool waits = failing.log.find("training waits") != std::string::npos;
    CHECK(waits == (host_memory < (1 << 20)));
    CHECK(failing.losses.size() == 3);
    const Trained after = trial.run("2-after" + number, trial.config(on_disk), {.earlier = {"1-failing" + number}});
    INFO(after.error);
    CHECK_THAT(after.log, Contains("goes on after step 2 "));
    CHECK(after.weights() == alone.weights());
  }
}

TEST_CASE("a damaged checkpoint is passed over, by name, for the one before") {
  const Trial trial;
  const json config = trial.config({"checkpoint.every=2"});
  const Trained straight = trial.run("1-straight", config);
  const Trained first = trial.run("1-first", config, {.stop_after = 5});
  REQUIRE(first.ending == stages::Ending::stopped);
  const fs::path newest = first.attempt / "checkpoints" / "step-00000005" / "part.00000.h5";
  {
    std::fstream file(newest, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(fs::file_size(newest) / 2));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(fs::file_size(newest) / 2));
    file.put(static_cast<char>(byte ^ 4));
  }
  const Trained second = trial.run("2-second", config, {.earlier = {"1-first"}});
  INFO(second.error << second.log);
  CHECK_THAT(second.log, Contains("step-00000005"));
  CHECK_THAT(second.log, Contains("goes on after step 4"));
  CHECK(second.weights() == straight.weights());
}

TEST_CASE("how long a step and a save take is known once a checkpoint is whole, and then it can stop in time") {
  const Trial trial;
  const Trained trained = trial.run("1-a", trial.config({"checkpoint.every=2", "steps=1000000"}), {.stop_when_known = true});
  INFO(trained.error << trained.log);
  CHECK(trained.ending == stages::Ending::stopped);
  CHECK(trained.losses.size() >= 2);
}

TEST_CASE("metrics of all attempts together tell every step once") {
  const Trial trial;
  const json config = trial.config({"checkpoint.every=2"});
  const Trained straight = trial.run("1-straight", config);
  const auto write = [](const Trained& trained) {
    std::ofstream file(trained.attempt / "metrics.jsonl");
    for (const json& line : trained.lines) file << line.dump() << "\n";
  };
  // Ends after step 5; what it saved then is lost, so that step 5 comes again.
  const Trained first = trial.run("1-first", config, {.stop_after = 5});
  write(first);
  REQUIRE(first.synced_lines > 0);
  CHECK(first.lines.at(first.synced_lines - 1).value("step", 0) == 5);  // before the checkpoint of step 5 counted
  fs::remove_all(first.attempt / "checkpoints" / "step-00000005");
  const Trained second = trial.run("2-second", config, {.ranks = 2, .earlier = {"1-first"}});
  write(second);
  std::vector<std::string> losses;
  for (const json& line : telemetry::read_metrics({first.attempt, second.attempt})) {
    if (line.contains("loss_bits")) losses.push_back(line.at("loss_bits"));
  }
  CHECK(losses == straight.losses);
}

TEST_CASE("what is not finite is caught in its step, and named") {
  const Trial trial;
  const std::vector<std::string> exploding{"optimizer.kind=sgd", "optimizer.lr=1000",   "optimizer.clip=0",
                                           "schedule.warmup=0",  "model.initial_std=3", "checkpoint.every=1"};
  const auto with = [&](const std::string& more) {
    std::vector<std::string> changes = exploding;
    changes.push_back(more);
    return trial.config(changes);
  };
  const Trained stopped = trial.run("1-stop", with("on_nan=stop"));
  CHECK_THAT(stopped.error, Contains("is not finite; lower the learning rate"));
  CHECK_THAT(stopped.error, Contains("step ") && (Contains("the loss of sequence ") || Contains("the gradient of ")));

  const Trained skipped = trial.run("1-skip", with("on_nan=skip"));
  INFO(skipped.error);
  CHECK(skipped.losses.size() == 6);
  CHECK_THAT(skipped.log, Contains("the step is left out"));
  const Trained rolled = trial.run("1-rollback", with("on_nan=rollback"));
  CHECK_THAT(rolled.error, Contains("after 5 returns to ") && Contains("leaving out data does not help"));
}

TEST_CASE("fp16's loss scale comes down where gradients overflow, and ends the training at its minimum") {
  const Trial trial;
  const Trained down =
      trial.run("1-down", trial.config({"precision.compute=fp16", "precision.loss_scale.initial=1e12", "steps=30"}));
  INFO(down.error << down.log);
  CHECK(down.losses.size() == 30);
  CHECK_THAT(down.log, Contains("the step is left out, the scale goes to "));
  CHECK(std::any_of(down.lines.begin(), down.lines.end(), [](const json& line) { return line.contains("skipped"); }));
  const checkpoint::Checkpoint checkpoint = down.checkpoint();
  CHECK(checkpoint.metadata().at("loss_scale").at("scale") < 1e12);
  CHECK(checkpoint.metadata().at("updates") < 30);
  CHECK(checkpoint.metadata().at("updates") > 0);

  const Trained stuck =
      trial.run("1-stuck", trial.config({"precision.compute=fp16", "precision.loss_scale.initial=1e12",
                                         "precision.loss_scale.minimum=1e12"}));
  CHECK_THAT(stuck.error, Contains("the gradient of ") && Contains("is not finite at the least loss scale"));
}

TEST_CASE("frozen parameters stay, the others move, and groups have rates of their own") {
  const Trial trial;
  const auto digests = [&](const std::string& name, const std::vector<std::string>& changes) {
    std::map<std::string, std::string> result;
    const Trained trained = trial.run("1-" + name, trial.config(changes));
    INFO(trained.error);
    const checkpoint::Checkpoint checkpoint = trained.checkpoint();
    for (const checkpoint::TensorInfo& tensor : checkpoint.tensors()) result[tensor.path] = tensor.digest;
    return result;
  };
  const auto none = digests("none", {"steps=1", "schedule.warmup=0", "optimizer.lr=0", "precision.compute=fp32"});
  const auto frozen = digests("frozen", {"precision.compute=fp32", "freeze=['*.layers.0.*', 'lm_head.weight']",
                                         "optimizer.groups=[{match: '*embed*', lr_scale: 0}]"});
  CHECK(frozen.at("parameters/model.layers.0.mlp.up_proj.weight") ==
        none.at("parameters/model.layers.0.mlp.up_proj.weight"));
  CHECK(frozen.at("parameters/lm_head.weight") == none.at("parameters/lm_head.weight"));
  CHECK(frozen.at("parameters/model.embed_tokens.weight") == none.at("parameters/model.embed_tokens.weight"));
  CHECK(frozen.at("parameters/model.layers.1.mlp.up_proj.weight") !=
        none.at("parameters/model.layers.1.mlp.up_proj.weight"));
  CHECK_FALSE(frozen.contains("optimizer/exp_avg/lm_head.weight"));
  CHECK(frozen.contains("optimizer/exp_avg/model.embed_tokens.weight"));
}

TEST_CASE("a training begins from a checkpoint of another, with its weights and nothing else") {
  const Trial trial;
  const Trained first = trial.run("1-first", trial.config());
  const fs::path folder = first.attempt / "artifacts" / "checkpoint";
  for (const fs::path& from : {folder, folder / "manifest.json"}) {
    json config = trial.config({"steps=1", "schedule.warmup=0", "optimizer.lr=0"});
    config["model"]["from"] = from;
    for (const char* const key : {"layers", "hidden", "heads", "kv_heads"}) config["model"][key] = 0;
    const Trained second = trial.run(from == folder ? "1-folder" : "1-manifest", config);
    INFO(second.error);
    CHECK(second.weights() == first.weights());
    CHECK(second.checkpoint().step() == 1);
  }
}

TEST_CASE("a budget of device memory that does not suffice is named with what is held") {
  const Trial trial;
  const Trained trained = trial.run("1-small", trial.config(), {.device_memory = 300'000});
  CHECK_THAT(trained.error, Contains("device memory") || Contains("budget"));
}

TEST_CASE("the best checkpoint is that of the least validation loss") {
  const Trial trial;
  const Trained trained =
      trial.run("1-best", trial.config({"validation.every=1", "checkpoint.best=true", "optimizer.lr=0.3",
                                        "schedule.warmup=0", "optimizer.kind=sgd", "optimizer.clip=0", "steps=8"}));
  INFO(trained.error << trained.log);
  double least = 1e9;
  std::int64_t at = 0;
  for (const json& line : trained.lines) {
    if (!line.contains("validation_loss") || line.contains("phases")) continue;
    if (line.at("validation_loss") < least) {
      least = line.at("validation_loss");
      at = line.at("step");
    }
  }
  CHECK(trained.checkpoint("best").step() == at);
  CHECK(trained.checkpoint("best").metric() == least);
  CHECK(trained.checkpoint().step() == 8);
}

}  // namespace
}  // namespace braise::train
