// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "kernels/comm/collectives.h"
#include "kernels/comm/communicator.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/loss/cross_entropy.h"
#include "stages/shared/model/decoder.h"

namespace braise::model {

/// Micro-batches through the parts of a model that ranks have one after another, its stages. A stage begins with as
/// many forward passes as there are stages after it, then takes forward and backward passes in turn; so stage s of S
/// keeps at most S - s micro-batches, and every stage goes backward in the order of the micro-batches: the bits are
/// those of one stage. What stages tell each other goes on while they compute. Every member is collective on all
/// stages, and on the ranks that share this one's blocks. Source: Narayanan et al., "PipeDream", 2019, section 3.2
/// (1F1B), with the flush of Megatron-LM (2021), section 2.2.
class Pipeline {
 public:
  /// stages: the ranks that have the parts, in their order, with this rank's share; one rank: there is but one part.
  /// It, the decoder and the stream must outlive it, and no other comm::Collectives is on `stages`.
  Pipeline(core::Stream& stream, Decoder& decoder, comm::Communicator& stages);
  ~Pipeline();

  bool is_first() const { return rank_ == 0; }           ///< not collective
  bool is_last() const { return rank_ == stages_ - 1; }  ///< not collective

  /// What is asked of the caller. Micro-batches are numbered from 0 and have one shape, that of batch(0).
  struct Work {
    std::int64_t micro_batches = 0;
    std::function<Batch(std::int64_t)> batch;
    core::TensorView losses;  ///< fp32 [B, T], contiguous: of the micro-batch just gone forward, in the last stage
    core::ConstTensorView weights;  ///< fp32 [B, T], contiguous: of all micro-batches' losses
    loss::CrossEntropy loss;
    std::function<void(std::int64_t)> begin_forward, begin_backward;  ///< the computation is about to begin
    std::function<void(std::int64_t)> forward_done, backward_done;
  };

  /// Adds the gradients of all micro-batches to the decoder's.
  void run(const Work& work);

  /// The losses of a batch, in the last stage.
  void evaluate(const core::TensorView& losses, const Batch& batch, const loss::CrossEntropy& settings);

  /// Whether this stage and another have the two ends of a tied model, and not the same.
  bool has_other_end() const { return ends_ != nullptr; }  ///< not collective

  /// Adds to a gradient of the embedding, or as much of it as both have in memory, that of the other end: both then
  /// have the sum. Collective on the ends.
  void add_other_end(const core::TensorView& gradient);

 private:
  class Incoming;
  class Outgoing;

  core::Stream& stream_;
  Decoder& decoder_;
  const int rank_;
  const int stages_;
  std::unique_ptr<comm::Collectives> axis_;        // none where there is but one stage
  std::unique_ptr<comm::Communicator> ends_comm_;  // with a tied head: the first and the last stage
  std::unique_ptr<comm::Collectives> ends_;
};

}  // namespace braise::model
