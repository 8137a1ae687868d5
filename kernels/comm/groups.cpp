// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/groups.h"

#include <cstdint>
#include <string>

#include "kernels/core/error.h"

namespace braise::comm {
namespace {

std::vector<int> along(const Groups& groups, Groups::Place place, int Groups::Place::*axis, int width) {
  std::vector<int> ranks;
  for (int i = 0; i < width; ++i) {
    place.*axis = i;
    ranks.push_back(groups.rank(place));
  }
  return ranks;
}

}  // namespace

Groups::Place Groups::place(int rank) const {
  if (rank < 0 || rank >= world()) {
    throw core::Error("rank " + std::to_string(rank) + " of " + std::to_string(world()) + " has no place");
  }
  return {rank % tensor, rank / tensor % data, rank / tensor / data};
}

int Groups::rank(const Place& place) const {
  return (place.pipeline * data + place.data) * tensor + place.tensor;
}

std::vector<int> Groups::tensor_group(int of_rank) const {
  return along(*this, place(of_rank), &Place::tensor, tensor);
}

std::vector<int> Groups::pipeline_group(int of_rank) const {
  return along(*this, place(of_rank), &Place::pipeline, pipeline);
}

std::vector<int> Groups::data_group(int of_rank) const {
  return along(*this, place(of_rank), &Place::data, data);
}

Groups make_groups(int world, int tensor, int pipeline, int data) {
  const bool widths = tensor >= 1 && pipeline >= 1 && data >= 1;
  if (!widths || tensor > world || pipeline > world || std::int64_t{tensor} * pipeline > world ||
      std::int64_t{tensor} * pipeline * data != world) {
    throw core::Error("tensor " + std::to_string(tensor) + " x pipeline " + std::to_string(pipeline) + " x data " +
                      std::to_string(data) + " does not make " + std::to_string(world) + " ranks");
  }
  return {tensor, pipeline, data};
}

}  // namespace braise::comm
