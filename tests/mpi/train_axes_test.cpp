// SPDX-License-Identifier: Apache-2.0
// Trainings under mpirun whose ranks share blocks and have stages of them: the same bits as without stages.
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

constexpr char kRecipe[] = R"(recipe: 1
name: axes
resources: {workers_per_node: 1, hang_timeout: 60s}
stages:
  corpus:
    kind: tokenize
    input: corpus.txt
    validation: {fraction: 0.1, take: tail}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 32}
    model: {family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2, tied: true}
    steps: 6
    batch: {global: 8, micro: 1}
    optimizer: {lr: 2e-3, clip: 1.0}
    validation: {every: 3, sequences: 8}
)";

TEST_CASE("over MPI, stages and copies of a model that ranks share change no bit") {
  const test::TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "line " + std::to_string(i * i % 997) + " of a text to learn\n";
  folder.write("corpus.txt", text);
  folder.write("axes.yaml", kRecipe);
  const auto run = [&](int ranks, const std::string& parallel) {
    const fs::path runs = folder.path() / ("runs" + parallel);
    const test::Finished finished =
        test::run_program({test::program("braise"), "run", folder.path() / "axes.yaml", "--runs", runs, "--set",
                           "stages.pretrain.resources.workers_per_node=" + std::to_string(ranks), "--set",
                           "stages.pretrain.parallel=" + parallel});
    INFO(finished.out << finished.err);
    REQUIRE(finished.status == 0);
    for (const auto& entry : fs::directory_iterator(runs)) {
      if (entry.path().filename().string().starts_with("axes-")) return entry.path() / "jobs/pretrain";
    }
    return fs::path();
  };
  const fs::path shared = run(2, "{tensor: 2}");
  for (const char* const parallel : {"{tensor: 2, pipeline: 2}", "{tensor: 2, zero: 1}"}) {
    const test::Finished compared = test::run_program({test::program("braise"), "compare", shared, run(4, parallel)});
    INFO(parallel << compared.out << compared.err);
    CHECK(compared.status == 0);
    CHECK_THAT(compared.out, Catch::Contains("identical through step 6"));
  }
}

}  // namespace
}  // namespace braise
