// SPDX-License-Identifier: Apache-2.0
#include "stages/select/work.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"
#include "stages/api/input_path.h"
#include "stages/shared/checkpoint/checkpoint.h"
#include "stages/shared/checkpoint/parameters.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"

namespace braise::select {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

constexpr char kFile[] = "artifacts/selected.json";

struct Candidate {
  std::string name;
  std::optional<std::int64_t> step;  ///< nothing: there is no checkpoint
  std::optional<double> loss;        ///< nothing: none was measured
};

Candidate read(const json& entry) {
  Candidate candidate{entry.at("name"), {}, {}};
  const std::string text = entry.at("checkpoint");
  if (text.empty()) return candidate;
  const fs::path path = stages::input_path(text);
  const std::optional<fs::path> folder = checkpoint::folder_of(path);
  if (!folder) throw core::Error(path.string() + " is no checkpoint; name its folder or its manifest.json");
  const checkpoint::Checkpoint found(*folder);
  candidate.step = found.step();
  candidate.loss = found.metric();
  return candidate;
}

/// Losses that are not numbers come after all that are.
bool is_better(const Candidate& a, const Candidate& b) {
  if (std::isnan(*a.loss) || std::isnan(*b.loss)) return !std::isnan(*a.loss) && std::isnan(*b.loss);
  return *a.loss < *b.loss;
}

}  // namespace

stages::Ending run(stages::StageContext& context, stages::Outputs& outputs) {
  if (context.comm().rank() != 0) return stages::Ending::completed;
  const json& config = context.job().config;
  std::vector<Candidate> candidates;
  for (const json& entry : config.at("candidates")) {
    context.operation("read the checkpoint of " + entry.at("name").get<std::string>());
    candidates.push_back(read(entry));
  }
  json told = json::array();
  for (const Candidate& candidate : candidates) {
    const bool is_number = candidate.loss && std::isfinite(*candidate.loss);
    told.push_back({{"name", candidate.name},
                    {"step", candidate.step ? json(*candidate.step) : json()},
                    {"validation_loss", is_number ? json(*candidate.loss) : json()}});
    if (!candidate.step) {
      context.log(candidate.name + " has left no checkpoint and is passed over");
    } else if (!candidate.loss) {
      context.log(candidate.name + " has no validation loss and is passed over");
    }
  }
  std::erase_if(candidates, [](const Candidate& candidate) { return !candidate.loss; });
  if (candidates.empty()) {
    throw core::Error("no candidate has a validation loss, so none is the best; give the training a validation side");
  }
  std::stable_sort(candidates.begin(), candidates.end(), is_better);
  candidates.resize(std::min<std::size_t>(candidates.size(), config.at("keep")));
  json selected = json::array();
  for (const Candidate& candidate : candidates) {
    selected.push_back(candidate.name);
    context.log("selected: " + candidate.name + ", validation loss " + json(*candidate.loss).dump());
  }
  context.operation("write the selection");
  const fs::path file = context.attempt_dir() / kFile;
  io::create_directories_durably(file.parent_path());
  io::write_file_durably(file, json{{"selected", selected}, {"candidates", told}}.dump(1) + "\n");
  const io::FileDigest digest = io::digest_file(file);
  outputs["selected"].files.push_back({kFile, digest.bytes, digest.sha256});
  return stages::Ending::completed;
}

}  // namespace braise::select
