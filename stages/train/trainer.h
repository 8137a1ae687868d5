// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/comm/communicator.h"
#include "kernels/core/device.h"
#include "stages/shared/data/batch_source.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/pipeline.h"
#include "stages/shared/telemetry/phase_timer.h"
#include "stages/train/activation_store.h"
#include "stages/train/gradients.h"
#include "stages/train/grid.h"
#include "stages/train/loss_scale.h"
#include "stages/train/optimizer_state.h"
#include "stages/train/settings.h"
#include "stages/train/shards.h"
#include "stages/train/shown_pieces.h"
#include "stages/train/values.h"

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
class Trainer final : private model::UnitKeeper {
 public:
  /// What a trainer needs of its surroundings, which must outlive it.
  struct Around {
    core::Stream& stream;
    core::Arena& host;
    Grid& grid;
    telemetry::Profile& profile;
    std::function<void(std::string_view)> operation;  ///< notes what this rank does
    std::function<void(std::string_view)> log;
    std::filesystem::path scratch;  ///< for what is offloaded, unless the settings name a folder
  };
  Trainer(const Around& around, const model::Config& config, const Settings& settings, const Lanes& lanes,
          std::uint64_t seed);

  const model::Decoder& decoder() const { return decoder_; }

  /// Random weights.
  void initialise();

  /// The weights of a model in the layout of Hugging Face. Errors: core::Error as Decoder::load.
  void load(const weights::Weights& weights);

  /// The weights of a checkpoint. Here as above: call on every rank. Errors: core::Error as OptimizerState::load.
  void load(const checkpoint::Checkpoint& checkpoint);

  /// One step on this rank's sequences of the global batch, `mine`, of which the first is number `first` of the batch.
  /// A step whose loss or gradients are not finite changes no weight. Call on every rank. `step`: of the training, from
  /// 1.
  StepOutcome step(const data::HostBatch& mine, std::int64_t first, std::int64_t step, double learning_rate);

  /// The mean loss over the targets of sequences [0, count) of a validation side. Call on every rank.
  double evaluate(const data::BatchSource& validation, std::int64_t count);

  /// What this rank contributes to a checkpoint of the state: parameters, master weights, optimizer. It shows what is
  /// in use, until the next step. Call on every rank.
  std::vector<checkpoint::Piece> pieces();

  /// What this rank has of the state in a checkpoint; restored() is then to be called on every rank. Not collective.
  void restore(const checkpoint::Checkpoint& checkpoint);
  void restored();

  /// Optimizer steps that were applied.
  std::int64_t updates() const { return updates_; }
  void set_updates(std::int64_t updates) { updates_ = updates; }
  LossScale& loss_scale() { return loss_scale_; }

 private:
  /// Of sequences, in their order.
  struct Sums {
    explicit Sums(std::int64_t sequences) : losses(static_cast<std::size_t>(sequences)), targets(losses.size()) {}
    std::vector<double> losses;  ///< over the targets of each
    std::vector<std::int64_t> targets;
  };
  void need_values(int unit, const model::Packs& packs) override { values_.need(unit, packs); }
  void values_used(int unit) override { values_.used(unit); }
  void need_gradients(int unit) override { gradients_.need(unit); }
  void gradients_added(int unit) override { gradients_.added(unit); }

  model::Batch micro_batch(const data::HostBatch& batch, std::int64_t begin, std::int64_t end) const;
  void add_losses(Sums& sums, std::int64_t first, const core::ConstTensorView& losses,
                  const core::ConstTensorView& targets) const;
  void add_gradients(Sums& sums, const data::HostBatch& mine, std::int64_t first, std::int64_t step,
                     const loss::CrossEntropy& loss);
  /// The block sums of squares of gradients: of the parameters one after another, the tensor axis' shares one after
  /// another.
  struct BlockSums {
    std::vector<double> sums;
    std::vector<std::pair<std::string, std::size_t>> parameters;  ///< which have so many of the sums
  };
  std::vector<double> part_block_sums();
  BlockSums block_sums();
  std::vector<checkpoint::Piece> logical_pieces(std::span<const checkpoint::Piece> mine);
  template <class T>
  std::vector<T> from_last_stage(std::vector<T> values);
  static std::string what_is_not_finite(double loss, const std::vector<double>& losses, const BlockSums& blocks);
  void report(std::string_view what) const { operation_(what); }

  core::Stream& stream_;
  core::Arena& host_;
  Grid& grid_;
  comm::Communicator& comm_;  ///< of the data axis
  const Settings& settings_;
  const Lanes lanes_;
  const std::uint64_t seed_;
  telemetry::Profile& profile_;
  std::function<void(std::string_view)> operation_;
  std::unique_ptr<comm::Collectives> axis_;  ///< of the data axis; null on one rank
  const Disk disk_;
  std::unique_ptr<ActivationStore> activations_;  ///< null: the decoder keeps them
  model::Decoder decoder_;
  model::Pipeline pipeline_;
  const Shards shares_;  ///< of a checkpoint, and of what ranks own
  const Shards whole_;   ///< of one rank: what each owns in ZeRO 0
  const Shards& owners_;
  const int owner_;  ///< this rank among them
  Values values_;
  OptimizerState optimizer_;
  Gradients gradients_;
  LossScale loss_scale_;
  ShownPieces shown_;           ///< logical pieces of a checkpoint, where ranks share blocks
  core::Tensor losses_;         ///< fp32 [micro, T]
  core::Tensor token_weights_;  ///< fp32 [micro, T]
  std::int64_t updates_ = 0;
};

}  // namespace braise::train
