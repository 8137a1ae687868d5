// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/decoder.h"
#include "stages/train/shards.h"

namespace braise::train {

/// The values of a decoder's parameters on one rank: all of them, or (ZeRO 3) what the rank owns, of which units are
/// gathered as passes need them, the next one while one is used, and given up after use.
class Values {
 public:
  struct Where {
    bool gathers = false;         ///< ZeRO 3
    core::Arena* home = nullptr;  ///< of what the rank owns, where it gathers
  };
  /// `axis`: the ranks that own; null where there is one. All must outlive it.
  Values(core::Stream& stream, comm::Collectives* axis, model::Decoder& decoder, core::Dtype dtype,
         const Shards& owners, int rank, const Where& where);

  /// Before a forward pass, with the backward pass after it or not.
  void begin_pass(bool backward);

  /// As model::UnitKeeper has it.
  void need(int unit, const model::Packs& packs);
  void used(int unit);

  /// Exchanges what a pass without backward pass does, for ranks that have nothing to compute. Call where others
  /// compute.
  void accompany_pass();

  /// The values of a segment, of which the rank holds all. One-dimensional.
  core::TensorView part(const Segment& segment) const;

  /// To be called on every rank when ranks have changed what they own.
  void changed();

 private:
  struct Gathered {
    core::Tensor memory;
    comm::Pending pending;
    int users = 0;
  };
  void begin(int unit);

  core::Stream& stream_;
  comm::Collectives* axis_;
  model::Decoder& decoder_;
  const Shards& owners_;
  const int rank_;
  const Where where_;
  std::vector<core::Tensor> held_;  // by unit: all, or what this rank owns
  std::vector<Gathered> gathered_;  // by unit; after what it is gathered from
  std::vector<int> order_;          // in which the pass at hand needs units
  std::size_t next_ = 0;            // in order_
};

}  // namespace braise::train
