// SPDX-License-Identifier: Apache-2.0
#include "tests/faults/small_training.h"

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "stages/shared/io/file.h"
#include "tests/faults/processes.h"
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

std::multiset<std::int64_t> steps_told(const fs::path& run) {
  std::multiset<std::int64_t> steps;
  const fs::path attempts = run / "jobs/pretrain/attempts";
  if (!fs::exists(attempts)) return steps;
  for (const auto& attempt : fs::directory_iterator(attempts)) {
    std::ifstream file(attempt.path() / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json values = nlohmann::json::parse(line, nullptr, false);
      if (values.is_object() && values.contains("loss_bits")) steps.insert(values.at("step").get<std::int64_t>());
    }
  }
  return steps;
}

bool wait_for_step(const fs::path& runs, std::int64_t step, pid_t runner) {
  for (int i = 0; i < 3000 && !has_ended(runner); ++i) {
    const fs::path run = training_run_in(runs);
    if (!run.empty() && steps_told(run).contains(step)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

std::string logs_of(const fs::path& run) {
  return run_program({program("braise"), "logs", run, "pretrain"}).out;
}

}  // namespace braise::test
