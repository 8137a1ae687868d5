// SPDX-License-Identifier: Apache-2.0
#include "stages/worker/agreement.h"

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"

namespace braise::worker {

std::vector<RankFacts> agree(comm::Communicator& comm, const stages::JobSpec& job, const RankFacts& mine) {
  if (comm.size() != job.resources.ranks()) {
    throw core::Error("MPI has started " + std::to_string(comm.size()) + " ranks, but job '" + job.job + "' is for " +
                      std::to_string(job.resources.ranks()) + " (resources.nodes x resources.workers_per_node)");
  }
  const nlohmann::json text = {mine.host, mine.pid, mine.job_sha256, mine.build_sha256};
  std::vector<RankFacts> all;
  for (const std::string& theirs : comm.all_gather(text.dump())) {
    const nlohmann::json facts = nlohmann::json::parse(theirs);
    all.push_back({facts[0], facts[1], facts[2], facts[3]});
  }
  for (std::size_t r = 1; r < all.size(); ++r) {
    const auto differ = [&](const std::string& what) {
      throw core::Error("rank " + std::to_string(r) + " (host " + all[r].host + ") " + what + " than rank 0 (host " +
                        all[0].host + ")");
    };
    if (all[r].job_sha256 != all[0].job_sha256) differ("has read another job.yaml");
    if (all[r].build_sha256 != all[0].build_sha256) differ("runs another build of braise-worker");
  }
  return all;
}

}  // namespace braise::worker
