// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/tier.h"
#include "stages/shared/model/checkpointing.h"
#include "stages/train/schedule.h"

namespace braise::train {

/// How a step's micro-batches are dealt to lanes, whose sums are added by a pairwise tree, and lanes to ranks.
struct Lanes {
  std::int64_t count = 1;           ///< a power of two
  std::int64_t micro_batches = 1;   ///< of one lane, summed in order
  std::int64_t lanes_per_rank = 1;  ///< an aligned block of them
};

/// The lanes of a step of `global` sequences in micro-batches of `micro` on so many ranks; `lanes` 0: the largest power
/// of two up to 8 that divides the micro-batches. Nothing where that cannot be: `problem` and `remedy` say why, and
/// `key` which key of the stage is to blame.
std::optional<Lanes> deal(std::int64_t global, std::int64_t micro, std::int64_t lanes, int ranks, std::string& key,
                          std::string& problem, std::string& remedy);

/// In what order the gradients of a step are summed; see Gradients.
enum class Reduction : std::uint8_t { kStep, kMicro };

/// Where a part of the state lies.
enum class Home : std::uint8_t { kDevice, kHost, kNvme };

struct OffloadSettings {
  Home master = Home::kDevice;
  Home optimizer = Home::kDevice;
  Home gradients = Home::kDevice;
  Home parameters = Home::kDevice;
  Home activations = Home::kDevice;  ///< those from which blocks are computed again
  std::string path;                  ///< the folder for Home::kNvme; empty: the run's scratch folder
};

enum class Algorithm : std::uint8_t { kAdamW, kAdam, kSgd, kRmsProp };

/// Parameters whose names fit a pattern, treated otherwise.
struct Group {
  std::string match;
  double lr_scale = 1;
  double weight_decay = 0;
};

struct OptimizerSettings {
  Algorithm algorithm = Algorithm::kAdamW;
  double lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double alpha = 0;
  double epsilon = 0;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double clip = 0;  ///< 0: none
  std::vector<Group> groups;

  /// How many fp32 tensors are kept for each parameter.
  int state_tensors() const;
};

struct LossScaleSettings {
  double initial = 1;
  double growth = 2;
  double backoff = 0.5;
  std::int64_t interval = 2000;
  std::int64_t hysteresis = 1;
  double minimum = 1;
};

/// What is done when a loss or a gradient is not finite.
enum class OnNan : std::uint8_t { kStop, kSkip, kRollback };

/// The keys of schemas/stage.train.schema.json that neither the data nor the model have for themselves.
struct Settings {
  std::int64_t sequence = 0;
  std::int64_t global = 0;
  std::int64_t micro = 0;
  std::int64_t lanes = 0;
  Reduction reduction = Reduction::kStep;
  int tensor = 1;    ///< ranks that share each block
  int pipeline = 1;  ///< stages of blocks
  int zero = 0;      ///< the ZeRO stage
  OffloadSettings offload;
  std::int64_t steps = 0;  ///< one of these three is not 0
  std::int64_t tokens = 0;
  double epochs = 0;
  std::int64_t until = 0;  ///< the last step of this job; 0: of the training
  OptimizerSettings optimizer;
  ScheduleSettings schedule;
  float label_smoothing = 0;
  float z_loss = 0;
  core::Dtype compute = core::Dtype::kBfloat16;
  core::Dtype gradients = core::Dtype::kFloat32;  ///< of the sums of lanes
  LossScaleSettings loss_scale;
  OnNan on_nan = OnNan::kStop;
  std::string activation_checkpointing;  ///< "none", "attention", "half", "all"
  std::vector<std::string> freeze;
  std::int64_t validate_every = 0;
  std::int64_t validation_sequences = 0;  ///< at most; 0: all
  double expected_validation_loss = 0;    ///< 0: none
  std::int64_t checkpoint_every = 0;
  std::int64_t keep = 0;
  std::int64_t keep_every = 0;
  bool keep_best = false;
  std::vector<std::int64_t> traced_steps;
  core::Tier tier;  ///< that products are computed on: the pinned one, else this process's

  /// `config`: the stage's, every default filled in.
  explicit Settings(const nlohmann::json& config);

  model::Checkpointing checkpointing() const;
  bool recomputes_blocks() const { return checkpointing().kind == model::Checkpointing::Kind::kEveryBlock; }

  /// Steps of the whole training; 0 where its length is given in epochs.
  std::int64_t total_steps() const;
};

}  // namespace braise::train
