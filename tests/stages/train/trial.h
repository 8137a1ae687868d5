// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/api/stage.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "tests/support/support.h"

namespace braise::test {

/// What an attempt at a training left.
struct Trained {
  stages::Ending ending = stages::Ending::completed;
  std::string error;                  ///< what it threw; then there are no outputs
  std::vector<std::string> losses;    ///< of each step told of, to the bit
  std::vector<nlohmann::json> lines;  ///< of metrics
  std::size_t synced_lines = 0;       ///< of them, on the disk before the last checkpoint
  std::string log;                    ///< of rank 0
  std::filesystem::path attempt;
  stages::Outputs outputs;

  /// The published checkpoint.
  checkpoint::Checkpoint checkpoint(const std::string& output = "checkpoint") const;
  std::string weights() const { return checkpoint().weights_digest(); }
  std::string state() const;  ///< the digests of all its tensors: parameters, master weights, optimizer
};

/// A small training on made-up text, run inside of the test.
class Trial {
 public:
  Trial();

  /// The stage's configuration: the small training's with these keys in their place, YAML such as "steps: 7" or
  /// "model: {tied: true}", and every default filled in.
  nlohmann::json config(const std::vector<std::string>& changes = {}) const;

  /// Whether a recipe with these keys is one.
  bool is_accepted(const std::vector<std::string>& changes) const;

  struct Options {
    int ranks = 1;
    int threads = 1;
    std::vector<std::string> earlier = {};                 ///< names of attempts, latest first
    std::int64_t stop_after = -1;                          ///< asks to stop once so many steps are done
    std::function<void(std::int64_t steps)> on_step = {};  ///< called by each rank before the next step
    bool stop_when_known = false;  ///< asks to stop once it is known how long a step and a save take (one rank)
    std::uint64_t device_memory = 0;
    std::uint64_t host_memory = std::uint64_t{1} << 30;
  };

  /// One attempt, of that name.
  Trained run(const std::string& attempt, const nlohmann::json& config, const Options& options) const;
  Trained run(const std::string& attempt, const nlohmann::json& config) const {
    return run(attempt, config, Options());
  }

  std::filesystem::path tokens() const { return folder_.path() / "data" / "tokens.h5"; }
  std::filesystem::path attempt_dir(const std::string& attempt) const;
  std::filesystem::path scratch_dir(const std::string& attempt) const;
  const std::filesystem::path& folder() const { return folder_.path(); }

 private:
  std::optional<nlohmann::json> resolved(const std::vector<std::string>& changes, std::string& faults) const;

  TemporaryFolder folder_;
};

}  // namespace braise::test
