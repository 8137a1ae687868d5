// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/groups.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <climits>
#include <set>

#include "kernels/core/error.h"

namespace braise::comm {
namespace {

using Members = std::vector<int> (Groups::*)(int) const;

/// Whether the groups of an axis hold every rank once, each in the order of its places, and agree on who is in them.
void check_axis(const Groups& groups, Members members, int Groups::Place::*axis, int width) {
  std::set<std::vector<int>> all;
  for (int rank = 0; rank < groups.world(); ++rank) {
    const std::vector<int> group = (groups.*members)(rank);
    REQUIRE(group.size() == static_cast<std::size_t>(width));
    REQUIRE(group[static_cast<std::size_t>(groups.place(rank).*axis)] == rank);
    for (int i = 0; i < width; ++i) {
      const int other = group[static_cast<std::size_t>(i)];
      Groups::Place place = groups.place(other);
      REQUIRE(place.*axis == i);
      place.*axis = groups.place(rank).*axis;
      REQUIRE(place == groups.place(rank));
      REQUIRE((groups.*members)(other) == group);
    }
    all.insert(group);
  }
  CHECK(all.size() * static_cast<std::size_t>(width) == static_cast<std::size_t>(groups.world()));
}

TEST_CASE("every product of axes deals ranks to groups") {
  for (int tensor = 1; tensor <= 8; ++tensor) {
    for (int pipeline = 1; pipeline <= 8; ++pipeline) {
      for (int data = 1; data <= 8; ++data) {
        const Groups groups = make_groups(tensor * pipeline * data, tensor, pipeline, data);
        for (int rank = 0; rank < groups.world(); ++rank) REQUIRE(groups.rank(groups.place(rank)) == rank);
        check_axis(groups, &Groups::tensor_group, &Groups::Place::tensor, tensor);
        check_axis(groups, &Groups::pipeline_group, &Groups::Place::pipeline, pipeline);
        check_axis(groups, &Groups::data_group, &Groups::Place::data, data);
        // Tensor innermost: its groups are neighbours.
        const std::vector<int> first = groups.tensor_group(0);
        CHECK(first.back() == tensor - 1);
      }
    }
  }
  const Groups groups = make_groups(8, 2, 2, 2);
  CHECK(groups.tensor_group(5) == std::vector<int>{4, 5});
  CHECK(groups.data_group(5) == std::vector<int>{5, 7});
  CHECK(groups.pipeline_group(5) == std::vector<int>{1, 5});
}

TEST_CASE("axes that do not make the ranks are refused") {
  CHECK_THROWS_WITH(make_groups(8, 2, 2, 3), Catch::Contains("tensor 2 x pipeline 2 x data 3 does not make 8 ranks"));
  CHECK_THROWS_AS(make_groups(0, 0, 1, 1), core::Error);
  CHECK_THROWS_AS(make_groups(4, -2, -2, 1), core::Error);
  CHECK_THROWS_AS(make_groups(1, INT_MAX, INT_MAX, INT_MAX), core::Error);
  CHECK_THROWS_AS(make_groups(2, 1, 1, 2).place(2), core::Error);
  CHECK_THROWS_AS(make_groups(2, 1, 1, 2).place(-1), core::Error);
}

}  // namespace
}  // namespace braise::comm
