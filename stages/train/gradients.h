// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/pipeline.h"
#include "stages/train/limits.h"
#include "stages/train/settings.h"
#include "stages/train/shards.h"
#include "stages/train/unit_file.h"

namespace braise::train {

/// The gradients of a step, summed in the one order that does not depend on how it is spread.
///
/// Reduction::kStep: a lane's micro-batches are summed in order, the lanes by a pairwise tree, of which each rank holds
/// an aligned part. kMicro: the micro-batches that are each lane's i-th are summed by that tree, and these sums in
/// order, in fp32. With a dtype other than fp32 what enters the tree is rounded to it, and each of its sums: that is
/// what waits, what ranks send each other, and with kStep the result. Either way a unit's part of the tree is exchanged
/// as soon as the last backward pass of this rank has added to it, while the pass goes on.
///
/// What is held: of each unit that is being added to, all elements; sums of lanes that wait for their partner in the
/// tree, in at most log2(lanes of this rank) copies; and the result: in ZeRO 0 all of it, from ZeRO 2 on what this
/// rank owns, in ZeRO 1 what it owns within the whole, with kMicro apart from it. Results that lie apart may lie on a
/// disk: of those the ones on their way are in memory, the one that is added to next, and the one being written.
class Gradients {
 public:
  struct How {
    int zero = 0;
    Reduction reduction = Reduction::kStep;
    core::Dtype dtype = core::Dtype::kFloat32;
    Lanes lanes;
    Home home = Home::kDevice;  ///< of results that lie apart from what is added to
    core::Arena* host = nullptr;
    Disk disk;                            ///< for Home::kNvme
    model::Pipeline* pipeline = nullptr;  ///< whose ends share a tied embedding; null: there are none
  };
  /// `axis`: the ranks that lanes are dealt to; null where there is one. `owners`: of one rank in ZeRO 0. All must
  /// outlive it.
  Gradients(core::Stream& stream, comm::Collectives* axis, model::Decoder& decoder, const Shards& owners, int rank,
            const How& how);

  /// Before the first micro-batch of a step.
  void begin_step();

  /// Before the backward pass of a lane's micro-batch: lanes and micro-batches of this rank from 0 on, the last index
  /// of the two running fastest that Reduction adds up first (kStep: micro-batches; kMicro: lanes).
  void begin_micro_batch(std::int64_t lane, std::int64_t micro_batch);

  /// As model::UnitKeeper has it.
  void need(int unit);
  void added(int unit);

  /// After the last micro-batch, on every rank: waits for the others' parts.
  void finish();

  /// What part() gives is no longer needed.
  void end_step();

  /// The gradient of a segment that the rank owns, after finish(). One-dimensional, of the dtype or fp32; from a disk,
  /// until a segment of another unit is asked for.
  core::TensorView part(const Segment& segment);

 private:
  struct OnTheWay {
    int unit = 0;
    bool is_first_sum = true;
    comm::Pending pending;
  };
  core::Tensor& sum(int unit) { return sums_[static_cast<std::size_t>(unit)]; }
  core::Tensor& result(int unit) { return results_[static_cast<std::size_t>(unit)]; }
  bool is_lane_end() const {
    return how_.reduction == Reduction::kMicro || micro_batch_ == how_.lanes.micro_batches - 1;
  }
  bool is_last_lane() const { return lane_ == how_.lanes.lanes_per_rank - 1; }
  bool is_first_sum() const { return how_.reduction == Reduction::kStep || micro_batch_ == 0; }
  core::Dtype result_dtype() const { return how_.reduction == Reduction::kStep ? how_.dtype : core::Dtype::kFloat32; }
  core::Tensor rounded(int unit) const;
  core::TensorView own(int unit) const;
  void read_result(int unit);
  void wait_for_result(int unit);
  void exchange(int unit);
  void arrived(int unit, bool is_first_sum);
  void wait_for_first();

  core::Stream& stream_;
  comm::Collectives* axis_;
  model::Decoder& decoder_;
  const Shards& owners_;
  const int rank_;
  const How how_;
  const bool apart_;  // whether results lie apart from what is added to
  std::int64_t lane_ = 0;
  std::int64_t micro_batch_ = 0;
  std::vector<core::Tensor> sums_;                  // by unit: what is added to
  std::vector<std::vector<core::Tensor>> waiting_;  // by level of the tree, then by unit
  std::vector<core::Tensor> results_;               // by unit, where they lie apart
  std::unique_ptr<UnitFile> file_;                  // of results, where they lie on a disk
  std::unique_ptr<UnitWindow> window_;
  std::map<int, offload::Transfer> reading_;  // by unit; after what is read to
  std::deque<OnTheWay> on_the_way_;           // after what it reads and writes
};

}  // namespace braise::train
