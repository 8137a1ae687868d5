// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/device.h"
#include "stages/shared/data/batch_source.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/telemetry/phase_timer.h"
#include "stages/train/lanes.h"
#include "stages/train/loss_scale.h"
#include "stages/train/optimizer_state.h"
#include "stages/train/settings.h"

namespace braise::train {

/// What one optimizer step gave; the same on every rank.
struct StepOutcome {
  double loss = 0;           ///< mean over the targets of the global batch
  double gradient_norm = 0;  ///< of all gradients, before clipping
  std::int64_t targets = 0;  ///< that are not ignored, in the global batch
  std::string not_finite;    ///< what was NaN or infinite first, in the order of computation; empty: nothing
  bool is_applied() const { return not_finite.empty(); }
};

/// The model and the optimizer as one rank has them, and a step. What it computes is a function of the recipe: not of
/// the number of ranks or threads, and but for rounding not of the size of micro-batches.
class Trainer {
 public:
  /// The arguments must outlive it. `operation`: notes what this rank does.
  Trainer(core::Stream& stream, comm::Communicator& comm, const model::Config& config, const Settings& settings,
          const Lanes& lanes, std::uint64_t seed, telemetry::Profile& profile,
          std::function<void(std::string_view)> operation);

  const model::Decoder& decoder() const { return decoder_; }

  /// Random weights.
  void initialise();

  /// The weights of a model in the layout of Hugging Face. Errors: core::Error as Decoder::load.
  void load(const weights::Weights& weights);

  /// The weights of a checkpoint. Errors: core::Error as OptimizerState::load.
  void load(const checkpoint::Checkpoint& checkpoint);

  /// One step on this rank's sequences of the global batch, `mine`, of which the first is number `first` of the batch.
  /// A step whose loss or gradients are not finite changes no weight. Call on every rank. `step`: of the training, from
  /// 1.
  StepOutcome step(const data::HostBatch& mine, std::int64_t first, std::int64_t step, double learning_rate);

  /// The mean loss over the targets of sequences [0, count) of a validation side. Call on every rank.
  double evaluate(const data::BatchSource& validation, std::int64_t count);

  /// The state by name: parameters, master weights, optimizer. The tensors are those in use.
  std::vector<StateTensor> tensors() const;
  /// To be called when tensors() were written to.
  void restored();

  /// Optimizer steps that were applied.
  std::int64_t updates() const { return updates_; }
  void set_updates(std::int64_t updates) { updates_ = updates; }
  LossScale& loss_scale() { return loss_scale_; }

 private:
  struct Sums {
    std::vector<double> losses;  ///< of each sequence, over its targets
    std::vector<std::int64_t> targets;
  };
  model::Batch micro_batch(const data::HostBatch& batch, std::int64_t begin, std::int64_t end) const;
  void add_losses(Sums& sums, const core::ConstTensorView& losses, const core::ConstTensorView& targets) const;
  std::string what_is_not_finite(double loss, double norm, const std::vector<double>& losses) const;
  void report(std::string_view what) const { operation_(what); }

  core::Stream& stream_;
  comm::Communicator& comm_;
  const Settings& settings_;
  const Lanes lanes_;
  const std::uint64_t seed_;
  telemetry::Profile& profile_;
  std::function<void(std::string_view)> operation_;
  model::Decoder decoder_;
  OptimizerState optimizer_;
  GradientLanes gradients_;
  LossScale loss_scale_;
  core::Tensor losses_;         ///< fp32 [micro, T]
  core::Tensor token_weights_;  ///< fp32 [micro, T]
  std::int64_t updates_ = 0;
};

}  // namespace braise::train
