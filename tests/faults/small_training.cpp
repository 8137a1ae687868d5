// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/small_training.h"

#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::test {
namespace fs = std::filesystem;

fs::path write_training_recipe(const fs::path& folder) {
  const fs::path recipe = folder / "training.yaml";
  io::write_file_durably(recipe, R"(recipe: 1
name: small-training
resources: {workers_per_node: 2, hang_timeout: 60s}
stages:
  corpus:
    kind: tokenize
    input: /usr/share/dictd/devil.dict.dz
    validation: {fraction: 0.1, take: tail}
  pretrain:
    kind: train
    data: {tokens: "${stages.corpus.tokens}", sequence: 64}
    model: {family: llama, layers: 2, hidden: 64, heads: 4, kv_heads: 2}
    steps: 150
    batch: {global: 16, micro: 2}
    optimizer: {lr: 2e-3, weight_decay: 0.1, clip: 1.0}
    schedule: {warmup: 10}
    validation: {every: 40, sequences: 32}
    checkpoint: {every: 7, keep: 2}
)");
  return recipe;
}

std::vector<std::string> training_command(const fs::path& recipe, const fs::path& runs,
                                          const std::vector<std::string>& set) {
  std::vector<std::string> command{program("braise"), "run", recipe, "--runs", runs};
  for (const std::string& one : set) command.insert(command.end(), {"--set", one});
  return command;
}

fs::path training_run_in(const fs::path& runs) {
  fs::path run;
  if (!fs::exists(runs)) return run;
  for (const auto& entry : fs::directory_iterator(runs)) {
    if (entry.path().filename().string().starts_with("small-training-")) run = entry.path();
  }
  return run;
}

}  // namespace braise::test
