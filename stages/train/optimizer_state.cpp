// SPDX-License-Identifier: Apache-2.0
#include "stages/train/optimizer_state.h"

#include <utility>

#include "kernels/core/copy.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/rms_prop.h"
#include "kernels/optimizer/sgd.h"
#include "stages/shared/checkpoint/parameters.h"
#include "stages/shared/weights/weights.h"

namespace braise::train {
namespace {

/// The names of what an algorithm keeps for each parameter, as torch.optim has them; empty: nothing.
std::pair<std::string, std::string> state_names(const OptimizerSettings& settings) {
  switch (settings.algorithm) {
    case Algorithm::kAdamW:
    case Algorithm::kAdam:
      return {"exp_avg", "exp_avg_sq"};
    case Algorithm::kSgd:
      return {settings.momentum > 0 ? "momentum_buffer" : "", ""};
    case Algorithm::kRmsProp:
      return {"square_avg", settings.momentum > 0 ? "momentum_buffer" : ""};
  }
  return {};
}

}  // namespace

OptimizerState::OptimizerState(core::Stream& stream, const model::Decoder& decoder, const OptimizerSettings& settings,
                               std::vector<ParameterRule> rules)
    : stream_(stream), decoder_(decoder), settings_(settings) {
  const auto [first, second] = state_names(settings);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const model::Parameter& parameter = decoder.parameters()[i];
    Entry entry{&parameter, rules[i], {}, {}, {}};
    const auto fp32 = [&](core::Category category) {
      return stream.arena().tensor(core::Dtype::kFloat32, parameter.spec.shape, category, parameter.spec.name);
    };
    if (!entry.rule.frozen) {
      if (parameter.value.dtype() != core::Dtype::kFloat32) entry.master = fp32(core::Category::kMaster);
      if (!first.empty()) entry.first = fp32(core::Category::kOptimizer);
      if (!second.empty()) entry.second = fp32(core::Category::kOptimizer);
      gradients_.push_back(parameter.gradient);
    }
    entries_.push_back(std::move(entry));
  }
}

void OptimizerState::zero_state() {
  for (const Entry& entry : entries_) {
    if (entry.first.view) core::fill(stream_, entry.first.view, 0);
    if (entry.second.view) core::fill(stream_, entry.second.view, 0);
  }
}

void OptimizerState::initialise(std::uint64_t seed) {
  zero_state();
  for (const Entry& entry : entries_) {
    model::initialise(stream_, entry.weights(), entry.parameter->spec, decoder_.config(), seed);
    if (entry.master.view) core::copy(stream_, entry.parameter->value, entry.master.view);
  }
}

void OptimizerState::load(const weights::Weights& weights) {
  zero_state();
  for (const Entry& entry : entries_) {
    if (!entry.master.view) continue;
    weights.read(stream_, model::find_parameter(weights, entry.parameter->spec)->name, entry.master.view);
  }
}

void OptimizerState::load(const checkpoint::Checkpoint& checkpoint) {
  zero_state();
  for (const Entry& entry : entries_) {
    checkpoint::read_parameter(stream_, checkpoint, entry.parameter->spec.name, entry.weights());
    if (entry.master.view) core::copy(stream_, entry.parameter->value, entry.master.view);
  }
}

void OptimizerState::apply(std::int64_t step, double learning_rate, float gradient_scale) {
  for (const Entry& entry : entries_) {
    if (entry.rule.frozen) continue;
    optimizer::Slice slice;
    slice.master = entry.weights();
    if (entry.master.view) slice.copy = entry.parameter->value;
    slice.gradient = entry.parameter->gradient;
    slice.gradient_scale = gradient_scale;
    const double rate = learning_rate * entry.rule.lr_scale;
    switch (settings_.algorithm) {
      case Algorithm::kAdamW:
      case Algorithm::kAdam:
        optimizer::adam_step(stream_, slice, entry.first.view, entry.second.view,
                             {.learning_rate = rate,
                              .beta1 = settings_.beta1,
                              .beta2 = settings_.beta2,
                              .epsilon = settings_.epsilon,
                              .weight_decay = entry.rule.weight_decay,
                              .decay = settings_.algorithm == Algorithm::kAdamW ? optimizer::WeightDecay::kDecoupled
                                                                                : optimizer::WeightDecay::kGradient},
                             step);
        break;
      case Algorithm::kSgd:
        optimizer::sgd_step(stream_, slice, entry.first.view,
                            {.learning_rate = rate,
                             .weight_decay = entry.rule.weight_decay,
                             .momentum = settings_.momentum,
                             .dampening = 0,
                             .nesterov = settings_.nesterov},
                            step);
        break;
      case Algorithm::kRmsProp:
        optimizer::rms_prop_step(stream_, slice, entry.first.view, {}, entry.second.view,
                                 {.learning_rate = rate,
                                  .alpha = settings_.alpha,
                                  .epsilon = settings_.epsilon,
                                  .weight_decay = entry.rule.weight_decay,
                                  .momentum = settings_.momentum,
                                  .centered = false});
        break;
    }
  }
}

std::vector<StateTensor> OptimizerState::tensors() const {
  const auto [first, second] = state_names(settings_);
  std::vector<StateTensor> tensors;
  for (const Entry& entry : entries_) {
    const std::string& name = entry.parameter->spec.name;
    if (entry.master.view) tensors.push_back({"master/" + name, entry.master.view});
    if (entry.first.view) tensors.push_back({"optimizer/" + first + "/" + name, entry.first.view});
    if (entry.second.view) tensors.push_back({"optimizer/" + second + "/" + name, entry.second.view});
  }
  return tensors;
}

}  // namespace braise::train
