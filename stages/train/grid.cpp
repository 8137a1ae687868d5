// SPDX-License-Identifier: Apache-2.0
#include "stages/train/grid.h"

#include <string>
#include <vector>

#include "kernels/core/error.h"

namespace braise::train {
namespace {

comm::Groups groups_of(int ranks, int tensor, int pipeline) {
  const int part = tensor * pipeline;
  if (ranks % part != 0) {
    throw core::Error("parallel.tensor " + std::to_string(tensor) + " times parallel.pipeline " +
                      std::to_string(pipeline) + " does not divide the " + std::to_string(ranks) + " ranks");
  }
  return comm::make_groups(ranks, tensor, pipeline, ranks / part);
}

}  // namespace

Grid::Grid(comm::Communicator& world, int tensor, int pipeline)
    : groups_(groups_of(world.size(), tensor, pipeline)), place_(groups_.place(world.rank())) {
  const int rank = world.rank();
  tensor_ = world.split(groups_.tensor_group(rank));
  stages_ = world.split(groups_.pipeline_group(rank));
  data_ = world.split(groups_.data_group(rank));
  std::vector<int> same_data, same_stage;
  for (int other = 0; other < world.size(); ++other) {
    const comm::Groups::Place place = groups_.place(other);
    if (place.data == place_.data) same_data.push_back(other);
    if (place.pipeline == place_.pipeline) same_stage.push_back(other);
  }
  model_ = world.split(same_data);
  stage_ = world.split(same_stage);
}

}  // namespace braise::train
