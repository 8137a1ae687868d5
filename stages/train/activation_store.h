// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/offload/store.h"
#include "stages/train/settings.h"
#include "stages/train/unit_file.h"

namespace braise::train {

/// Activations kept for the backward pass in the host's memory or on a disk: one is written, and one read ahead, while
/// the device computes.
class ActivationStore final : public model::ActivationKeeper {
 public:
  /// For at most `places` at once, each of one dtype and shape. The stream and the host's arena must outlive it, and
  /// Disk is for Home::kNvme. Errors: as offload::Store.
  ActivationStore(core::Stream& stream, core::Arena& host, Home home, const Disk& disk, int places, core::Dtype dtype,
                  const core::Shape& shape);

  int keep(core::Tensor activation) override;
  void fetch(int place) override;
  core::Tensor take(int place) override;

 private:
  struct Place {
    core::Tensor on_host;
    core::Tensor fetched;
    offload::Transfer reading;
  };
  core::Tensor memory(core::Arena& arena) const;
  void written();

  core::Stream& stream_;
  core::Arena& host_;
  const core::Dtype dtype_;
  const core::Shape shape_;
  std::unique_ptr<offload::Store> store_;  ///< none: the host's memory
  std::vector<Place> places_;
  std::vector<int> free_;
  core::Tensor writing_;  ///< what is being written
  offload::Transfer writes_;
};

}  // namespace braise::train
