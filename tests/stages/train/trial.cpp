// SPDX-License-Identifier: Apache-2.0
#include "tests/stages/train/trial.h"

#include <omp.h>

#include <catch2/catch.hpp>
#include <mutex>
#include <stdexcept>

#include "kernels/core/error.h"
#include "runner/recipe/recipe.h"
#include "stages/train/work.h"
#include "tests/stages/fake_context.h"
#include "tests/stages/shared/data/data_files.h"
#include "tests/support/thread_ranks.h"

namespace braise::test {
namespace {

constexpr std::uint32_t kEnd = 256;

/// Text with something to learn in it: words of a few letters, in an order that a small rule makes.
std::vector<Document> documents(std::uint64_t seed, int count) {
  static const std::vector<std::string> kWords{"the ",   "fox ",  "ran ", "over ", "a ",
                                               "wall. ", "then ", "it ",  "slept "};
  std::vector<Document> result;
  std::uint64_t state = seed;
  for (int i = 0; i < count; ++i) {
    Document document;
    for (int word = 0; word < 20; ++word) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const std::string& text = kWords[(state >> 60) % 4 + static_cast<std::size_t>(word) % 6];
      document.insert(document.end(), text.begin(), text.end());
    }
    document.push_back(kEnd);
    result.push_back(std::move(document));
  }
  return result;
}

}  // namespace

checkpoint::Checkpoint Trained::checkpoint(const std::string& output) const {
  INFO(error << log);
  REQUIRE(outputs.contains(output));
  return checkpoint::Checkpoint((attempt / outputs.at(output).files.at(0).path).parent_path());
}

std::string Trained::state() const {
  std::string digests;
  const checkpoint::Checkpoint published = checkpoint();
  for (const checkpoint::TensorInfo& tensor : published.tensors()) digests += tensor.path + " " + tensor.digest + "\n";
  return digests;
}

Trial::Trial() {
  TokenContent content;
  content.train = {documents(1, 40), documents(2, 25)};
  content.validation = {documents(3, 6)};
  content.vocabulary_size = kEnd + 1;
  content.end_of_document = kEnd;
  content.element = hdf5::Element::uint16;
  write_token_files(folder_.path() / "data", content);
}

std::filesystem::path Trial::attempt_dir(const std::string& attempt) const {
  return folder_.path() / "run" / "jobs" / "job" / "attempts" / attempt;
}

std::filesystem::path Trial::scratch_dir(const std::string& attempt) const {
  return folder_.path() / "run" / "scratch" / attempt;
}

nlohmann::json Trial::config(const std::vector<std::string>& changes) const {
  std::string faults;
  const std::optional<nlohmann::json> config = resolved(changes, faults);
  INFO(faults);
  REQUIRE(config);
  return *config;
}

bool Trial::is_accepted(const std::vector<std::string>& changes) const {
  std::string faults;
  return resolved(changes, faults).has_value();
}

std::optional<nlohmann::json> Trial::resolved(const std::vector<std::string>& changes, std::string& told) const {
  const std::string text =
      "recipe: 1\nname: trial\nstages:\n  job:\n    kind: train\n    data: {tokens: " + tokens().string() +
      ", sequence: 24}\n"
      "    model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2}\n"
      "    batch: {global: 16, micro: 1}\n"
      "    optimizer: {lr: 5e-3, weight_decay: 0.1, clip: 1.0}\n"
      "    schedule: {warmup: 2, floor: 0.1}\n"
      "    steps: 6\n";
  stages::Faults faults;
  recipe::Overrides overrides;
  for (const std::string& change : changes) overrides.set.push_back("stages.job." + change);
  const auto document = recipe::load_text(text, "trial.yaml", folder_.path(), overrides, faults);
  std::optional<recipe::Recipe> resolved;
  if (document) resolved = recipe::resolve(*document, {}, faults);
  told = stages::to_string(faults);
  if (!resolved) return std::nullopt;
  return resolved->stages.at(0).config;
}

Trained Trial::run(const std::string& attempt, const nlohmann::json& config, const Options& options) const {
  Trained trained;
  trained.attempt = attempt_dir(attempt);
  const int threads_before = omp_get_max_threads();
  const auto rank = [&](comm::Communicator& comm) {
    omp_set_num_threads(options.threads);
    FakeContext context(folder_.path() / "run", attempt);
    context.job_.kind = "train";
    context.job_.seed = 5;
    context.job_.config = config;
    context.job_.resources.workers_per_node = options.ranks;
    context.job_.resources.threads = options.threads;
    context.job_.resources.device_memory_bytes = options.device_memory;
    context.job_.resources.host_memory_bytes = options.host_memory;
    context.ranks_ = &comm;
    for (const std::string& earlier : options.earlier) context.earlier_attempts_.push_back(attempt_dir(earlier));
    std::int64_t steps = -1;
    context.on_poll_ = [&] {
      ++steps;
      if (options.on_step) options.on_step(steps);
      if (options.stop_when_known && context.needed_s_.value_or(0) > 0) return stages::Request::stop;
      return options.stop_after >= 0 && steps >= options.stop_after ? stages::Request::stop : stages::Request::none;
    };
    stages::Outputs outputs;
    stages::Ending ending = stages::Ending::completed;
    const auto tell = [&] {
      if (comm.rank() != 0) return;
      trained.ending = ending;
      trained.lines = context.metrics_;
      trained.synced_lines = context.synced_metrics_;
      trained.log = context.log_;
      trained.outputs = outputs;
    };
    try {
      ending = train::run(context, outputs);
    } catch (const core::Error&) {
      tell();
      throw;
    }
    tell();
  };
  try {
    with_ranks(options.ranks, rank);
  } catch (const core::Error& error) {
    trained.error = error.what();
  }
  omp_set_num_threads(threads_before);
  for (const nlohmann::json& line : trained.lines) {
    if (line.contains("loss_bits")) trained.losses.push_back(line.at("loss_bits"));
  }
  return trained;
}

}  // namespace braise::test
