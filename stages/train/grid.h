// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "kernels/comm/communicator.h"
#include "kernels/comm/groups.h"

namespace braise::train {

/// The ranks of a training, dealt to the axes of parallelism: see comm::Groups.
class Grid {
 public:
  /// Collective. `world` must outlive it. Errors: core::Error where the widths do not divide the ranks.
  Grid(comm::Communicator& world, int tensor, int pipeline);

  const comm::Groups& groups() const { return groups_; }
  const comm::Groups::Place& place() const { return place_; }

  comm::Communicator& tensor() { return *tensor_; }  ///< those that share this rank's blocks
  comm::Communicator& stages() { return *stages_; }  ///< those that have the other blocks, with this rank's share
  comm::Communicator& data() { return *data_; }      ///< those that have the same part, and other sequences
  comm::Communicator& model() { return *model_; }    ///< those that together have the model, stage by stage
  comm::Communicator& stage() { return *stage_; }    ///< those that have these blocks, whatever their share

 private:
  const comm::Groups groups_;
  const comm::Groups::Place place_;
  std::unique_ptr<comm::Communicator> tensor_, stages_, data_, model_, stage_;
};

}  // namespace braise::train
