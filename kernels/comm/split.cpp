// SPDX-License-Identifier: Apache-2.0
#include "kernels/comm/split.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "kernels/core/error.h"

namespace braise::comm {
namespace {

std::string text(std::span<const int> ranks) {
  std::string list;
  for (const int rank : ranks) list += (list.empty() ? "" : ", ") + std::to_string(rank);
  return "{" + list + "}";
}

}  // namespace

int place_in(std::span<const int> ranks, int rank, int size) {
  const std::set<int> distinct(ranks.begin(), ranks.end());
  const auto found = std::find(ranks.begin(), ranks.end(), rank);
  if (found == ranks.end() || distinct.size() != ranks.size() || *distinct.begin() < 0 || *distinct.rbegin() >= size) {
    throw core::Error("split: " + text(ranks) + " is no list of different ranks of " + std::to_string(size) +
                      " with rank " + std::to_string(rank) + " among them");
  }
  return static_cast<int>(found - ranks.begin());
}

void check_split(Communicator& part, std::span<const int> ranks) {
  const std::string mine = text(ranks);
  for (const std::string& theirs : part.all_gather(mine)) {
    if (theirs != mine) throw core::Error("split: ranks disagree on who is together: " + mine + " and " + theirs);
  }
}

}  // namespace braise::comm
