// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace braise::comm {

/// How the ranks of a job are dealt to the axes of parallelism.
struct Groups {
  /// Where a rank stands on each axis.
  struct Place {
    int tensor = 0;
    int data = 0;
    int pipeline = 0;
    bool operator==(const Place&) const = default;
  };

  int tensor = 1;
  int pipeline = 1;
  int data = 1;

  int world() const { return tensor * pipeline * data; }

  /// rank = (pipeline place * data + data place) * tensor + tensor place: neighbours, which reach each other fastest,
  /// exchange the most.
  Place place(int rank) const;
  int rank(const Place& place) const;

  /// The ranks that differ from `rank` in that axis alone, itself among them, by their place on it.
  std::vector<int> tensor_group(int of_rank) const;
  std::vector<int> pipeline_group(int of_rank) const;
  std::vector<int> data_group(int of_rank) const;
};

/// Errors: core::Error unless tensor x pipeline x data = world, each at least 1.
Groups make_groups(int world, int tensor, int pipeline, int data);

}  // namespace braise::comm
