// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/decoder.h"
#include "stages/train/parameter_rules.h"
#include "stages/train/settings.h"

namespace braise::checkpoint {
class Checkpoint;
}

namespace braise::train {

/// A tensor of the training's state under its name in a checkpoint.
struct StateTensor {
  std::string path;  ///< "master/transformer.wte.weight", "optimizer/exp_avg/..."
  core::TensorView tensor;
};

/// Master weights and the optimizer's state of a decoder's parameters, and their step. Frozen parameters have none.
class OptimizerState {
 public:
  /// The decoder and stream must outlive it. Master weights are fp32: the parameters themselves where those are.
  OptimizerState(core::Stream& stream, const model::Decoder& decoder, const OptimizerSettings& settings,
                 std::vector<ParameterRule> rules);

  /// Random master weights, and the decoder's values made of them; the optimizer's state begins anew. The decoder must
  /// be told that its values have changed; here and below.
  void initialise(std::uint64_t seed);

  /// Master weights of a file from which the decoder has its values; the optimizer's state begins anew.
  void load(const weights::Weights& weights);

  /// Master weights, and the decoder's values made of them, of a checkpoint: its master weights, or its parameters
  /// where those are all there is; the optimizer's state begins anew. Errors: core::Error naming what is missing.
  void load(const checkpoint::Checkpoint& checkpoint);

  /// Applies the gradients, times gradient_scale, at a learning rate; `step` counts from 1.
  void apply(std::int64_t step, double learning_rate, float gradient_scale);

  /// The gradients of parameters that are not frozen, in the order of the parameters.
  std::span<const core::ConstTensorView> gradients() const { return gradients_; }

  /// What a checkpoint holds of it besides the parameters: master weights where they are not the parameters, and the
  /// optimizer's state. The tensors are those in use.
  std::vector<StateTensor> tensors() const;

 private:
  void zero_state();

  struct Entry {
    const model::Parameter* parameter = nullptr;
    ParameterRule rule;
    core::Tensor master;         ///< none where the parameter is fp32
    core::Tensor first, second;  ///< moments, or the momentum, or the mean square and the momentum
    const core::TensorView& weights() const { return master.view ? master.view : parameter->value; }
  };
  core::Stream& stream_;
  const model::Decoder& decoder_;
  const OptimizerSettings settings_;
  std::vector<Entry> entries_;
  std::vector<core::ConstTensorView> gradients_;
};

}  // namespace braise::train
