// SPDX-License-Identifier: Apache-2.0
#include "stages/train/settings.h"

#include <map>
#include <nlohmann/json.hpp>

namespace braise::train {
namespace {

constexpr std::int64_t kMostDefaultLanes = 8;

bool is_power_of_two(std::int64_t value) {
  return value > 0 && (value & (value - 1)) == 0;
}

OptimizerSettings optimizer_of(const nlohmann::json& config) {
  static const std::map<std::string, Algorithm> kAlgorithms{{"adamw", Algorithm::kAdamW},
                                                            {"adam", Algorithm::kAdam},
                                                            {"sgd", Algorithm::kSgd},
                                                            {"rmsprop", Algorithm::kRmsProp}};
  OptimizerSettings settings;
  settings.algorithm = kAlgorithms.at(config.at("kind"));
  settings.lr = config.at("lr");
  settings.beta1 = config.at("beta1");
  settings.beta2 = config.at("beta2");
  settings.alpha = config.at("alpha");
  settings.epsilon = config.at("epsilon");
  settings.momentum = config.at("momentum");
  settings.nesterov = config.at("nesterov");
  settings.weight_decay = config.at("weight_decay");
  settings.clip = config.at("clip");
  for (const nlohmann::json& group : config.at("groups")) {
    settings.groups.push_back({group.at("match"), group.at("lr_scale"), group.at("weight_decay")});
  }
  return settings;
}

ScheduleSettings schedule_of(const nlohmann::json& config) {
  static const std::map<std::string, ScheduleKind> kKinds{{"constant", ScheduleKind::kConstant},
                                                          {"linear", ScheduleKind::kLinear},
                                                          {"cosine", ScheduleKind::kCosine},
                                                          {"wsd", ScheduleKind::kWarmupStableDecay},
                                                          {"inverse_sqrt", ScheduleKind::kInverseSquareRoot}};
  return {kKinds.at(config.at("kind")), config.at("warmup"), config.at("decay"), config.at("floor")};
}

OffloadSettings offload_of(const nlohmann::json& config) {
  const auto home = [&](const char* key) {
    const std::string name = config.at(key);
    return name == "none" ? Home::kDevice : name == "host" ? Home::kHost : Home::kNvme;
  };
  return {home("master"),     home("optimizer"),   home("gradients"),
          home("parameters"), home("activations"), config.at("path")};
}

LossScaleSettings loss_scale_of(const nlohmann::json& config) {
  return {config.at("initial"),  config.at("growth"),     config.at("backoff"),
          config.at("interval"), config.at("hysteresis"), config.at("minimum")};
}

}  // namespace

std::optional<Lanes> deal(std::int64_t global, std::int64_t micro, std::int64_t lanes, int ranks, std::string& key,
                          std::string& problem, std::string& remedy) {
  const auto fault = [&](const std::string& where, const std::string& what, const std::string& instead) {
    key = where;
    problem = what;
    remedy = instead;
    return std::nullopt;
  };
  if (global % micro != 0) {
    return fault("/batch/micro",
                 "is " + std::to_string(micro) + ", which does not divide batch.global " + std::to_string(global),
                 "must divide it");
  }
  const std::int64_t micro_batches = global / micro;
  Lanes dealt;
  if (lanes == 0) {
    while (dealt.count < kMostDefaultLanes && micro_batches % (2 * dealt.count) == 0) dealt.count *= 2;
  } else if (!is_power_of_two(lanes) || micro_batches % lanes != 0) {
    return fault("/numerics/lanes", "is " + std::to_string(lanes),
                 "must be a power of two that divides the " + std::to_string(micro_batches) +
                     " micro-batches of a step (batch.global / batch.micro)");
  } else {
    dealt.count = lanes;
  }
  if (dealt.count % ranks != 0) {
    return fault(lanes == 0 ? "/batch" : "/numerics/lanes",
                 "leaves " + std::to_string(dealt.count) + " lanes of " + std::to_string(micro_batches / dealt.count) +
                     " micro-batches for " + std::to_string(ranks) + " ranks",
                 "the number of ranks must divide that of the lanes: a power of two, with batch.global a multiple of "
                 "ranks times batch.micro");
  }
  dealt.micro_batches = micro_batches / dealt.count;
  dealt.lanes_per_rank = dealt.count / ranks;
  return dealt;
}

int OptimizerSettings::state_tensors() const {
  const int momentum_tensors = momentum > 0 ? 1 : 0;
  switch (algorithm) {
    case Algorithm::kAdamW:
    case Algorithm::kAdam:
      return 2;
    case Algorithm::kSgd:
      return momentum_tensors;
    case Algorithm::kRmsProp:
      return 1 + momentum_tensors;
  }
  return 0;
}

Settings::Settings(const nlohmann::json& config)
    : optimizer(optimizer_of(config.at("optimizer"))), schedule(schedule_of(config.at("schedule"))) {
  sequence = config.at("data").at("sequence");
  global = config.at("batch").at("global");
  micro = config.at("batch").at("micro");
  lanes = config.at("numerics").at("lanes");
  reduction = config.at("numerics").at("reduction") == "step" ? Reduction::kStep : Reduction::kMicro;
  zero = config.at("parallel").at("zero");
  tensor = config.at("parallel").at("tensor");
  pipeline = config.at("parallel").at("pipeline");
  offload = offload_of(config.at("offload"));
  steps = config.at("steps");
  tokens = config.at("tokens");
  epochs = config.at("epochs");
  until = config.at("until");
  label_smoothing = config.at("loss").at("label_smoothing");
  z_loss = config.at("loss").at("z_loss");
  const nlohmann::json& precision = config.at("precision");
  compute = core::dtype_named(precision.at("compute").get<std::string>()).value();
  gradients = core::dtype_named(precision.at("gradients").get<std::string>()).value();
  loss_scale = loss_scale_of(precision.at("loss_scale"));
  const std::string nan = config.at("on_nan");
  on_nan = nan == "stop" ? OnNan::kStop : nan == "skip" ? OnNan::kSkip : OnNan::kRollback;
  activation_checkpointing = config.at("activation_checkpointing");
  freeze = config.at("freeze").get<std::vector<std::string>>();
  validate_every = config.at("validation").at("every");
  validation_sequences = config.at("validation").at("sequences");
  expected_validation_loss = config.at("validation").at("expect");
  const nlohmann::json& checkpoint = config.at("checkpoint");
  checkpoint_every = checkpoint.at("every");
  keep = checkpoint.at("keep");
  keep_every = checkpoint.at("keep_every");
  keep_best = checkpoint.at("best");
  traced_steps = config.at("trace").get<std::vector<std::int64_t>>();
  tier = core::tier_named(config.at("numerics").at("tier").get<std::string>()).value_or(core::tier());
}

model::Checkpointing Settings::checkpointing() const {
  using Kind = model::Checkpointing::Kind;
  if (activation_checkpointing == "attention") return {Kind::kAttention};
  const bool elsewhere = offload.activations != Home::kDevice;
  if (activation_checkpointing == "half") return {Kind::kEveryBlock, 2, elsewhere};
  if (activation_checkpointing == "all") return {Kind::kEveryBlock, 1, elsewhere};
  return {};
}

std::int64_t Settings::total_steps() const {
  if (steps > 0) return steps;
  const std::int64_t step_tokens = global * sequence;
  return (tokens + step_tokens - 1) / step_tokens;
}

}  // namespace braise::train
