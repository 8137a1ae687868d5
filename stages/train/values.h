// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/decoder.h"
#include "stages/train/settings.h"
#include "stages/train/shards.h"
#include "stages/train/unit_file.h"

namespace braise::train {

/// The values of a decoder's parameters on one rank: all of them, or (ZeRO 3) what the rank owns, of which units are
/// gathered as passes need them, the next one while one is used, and given up after use. Where they lie on a disk they
/// are read one unit further ahead.
class Values {
 public:
  struct Where {
    bool gathers = false;       ///< ZeRO 3
    Home home = Home::kDevice;  ///< of what the rank owns, where it gathers
    core::Arena* host = nullptr;
    Disk disk;  ///< for Home::kNvme
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

  /// The values of a segment, of which the rank holds all, to be changed. One-dimensional; from a disk, until a segment
  /// of another unit is asked for.
  core::TensorView part(const Segment& segment);

  /// The same to be looked at, after changed() and until values are changed again.
  checkpoint::Content show(const Segment& segment);

  /// To be called on every rank when ranks have changed what they own.
  void changed();

 private:
  struct Gathered {
    core::Tensor memory;
    core::TensorView whole;
    offload::Transfer reading;
    bool gathering = false;
    comm::Pending pending;
    int users = 0;
  };
  bool is_alone() const { return axis_ == nullptr; }
  core::TensorView own(int unit, const core::TensorView& whole) const;
  void read(int unit);
  void begin(int unit);
  std::int64_t offset(const Segment& segment) const {
    return segment.offset - (where_.gathers ? owners_.range(segment.unit, rank_).begin : 0);
  }

  core::Stream& stream_;
  comm::Collectives* axis_;
  model::Decoder& decoder_;
  const Shards& owners_;
  const int rank_;
  const Where where_;
  const core::Dtype dtype_;
  std::vector<core::Tensor> held_;  // by unit: all, or what this rank owns, unless that is on a disk
  std::unique_ptr<UnitFile> file_;
  std::unique_ptr<UnitWindow> window_;
  std::vector<Gathered> gathered_;  // by unit; after what it is gathered from
  std::vector<int> order_;          // in which the pass at hand needs units
  std::size_t next_ = 0;            // in order_
};

}  // namespace braise::train
