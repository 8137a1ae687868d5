// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stages/api/job.h"

namespace braise::stages {

/// An input from outside the run, as the recipe names it.
struct InputPattern {
  std::string pointer;  ///< JSON pointer to the string in the stage's config: "/input/0"
  std::string pattern;  ///< absolute path or glob (*, ?, [a-z], ** for folders)
  std::string sha256;   ///< where the recipe pins it; else empty
};

/// One thing a stage of this kind leaves; `${stages.<stage>.<name>}` refers to it.
struct OutputDeclaration {
  std::string name;         ///< "tokens"
  std::string path;         ///< relative to the attempt's folder: "artifacts/tokens.h5"
  std::string description;  ///< for `braise kinds`
  bool shown = false;       ///< printable text whose beginning `braise run` shows when the run is completed
};

/// What a kind can tell beforehand.
struct Estimate {
  /// By ledger category ("workspace"), of the rank that needs the most: of the device's memory, of the host's besides,
  /// and of disks.
  std::map<std::string, std::uint64_t> memory_bytes_per_rank;
  std::map<std::string, std::uint64_t> host_bytes_per_rank;
  std::uint64_t disk_bytes_per_rank = 0;
  /// What a rank sends the others, by the axis of parallelism ("data").
  std::map<std::string, std::uint64_t> sent_bytes_per_step;
  std::uint64_t steps = 0;  ///< 0: not known
  std::string step_unit;    ///< what one step is: "shard"
};

/// How a job would fit its resources.
struct Fit {
  struct Change {
    std::string key;                ///< of the stage: "parallel.zero"
    std::string value;              ///< as a recipe has it
    std::string why;                ///< what it does
    std::uint64_t saved_bytes = 0;  ///< of the device's memory, beside the other changes
  };
  bool fits = false;  ///< false: nothing does, and this is what needs the least of the device's memory
  std::uint64_t device_bytes = 0, host_bytes = 0, disk_bytes = 0;  ///< of a rank
  std::uint64_t gap_bytes = 0;  ///< left of the device's memory besides, for gaps that are too small to be used
  std::vector<Change> changes;  ///< none: it fits as it stands
};

/// The config.json, as Hugging Face has it, of models that other stages of the run will leave, by the references to
/// them: "${stages.pretrain.checkpoint}". Those of which nothing is known beforehand are left out.
using KnownModels = std::map<std::string, nlohmann::json>;

/// What a kind's rules may look at.
struct RuleContext {
  const nlohmann::json& config;  ///< resolved, of right types, defaults filled in
  const Resources& resources;
  const KnownModels& models;
  /// Reports what is wrong at a JSON pointer into config ("/shard_size"; "" is the stage).
  std::function<void(std::string_view pointer, std::string problem, std::string remedy)> fault;
};

/// All that planning must know of a stage kind; lives in stages/<kind>/descriptor.cpp, free of MPI, HDF5 and devices.
/// The keys of the kind are in schemas/stage.<kind>.schema.json.
struct StageDescriptor {
  const char* kind;                  ///< "tokenize": the one word used in recipe, schema, folder and registry
  int version;                       ///< raised whenever equal configurations would give other outputs than before
  const char* summary;               ///< one line for `braise kinds`
  bool reusable;                     ///< whether equal fingerprints give equal outputs; a measurement is not reusable
  std::vector<std::string> devices;  ///< those it can run on: "cpu", "cuda"
  std::vector<OutputDeclaration> outputs;

  /// The rules between keys that a schema cannot state.
  void (*check)(const RuleContext& context);
  std::vector<InputPattern> (*inputs)(const nlohmann::json& config);
  /// `inputs` are the files found for the patterns; empty where they come from another stage and do not exist yet.
  Estimate (*estimate)(const nlohmann::json& config, const Resources& resources, const std::vector<InputFile>& inputs,
                       const KnownModels& models);
  /// The cheapest way to fit the resources; null for kinds that have no choice. Nothing where that cannot be told yet.
  std::optional<Fit> (*fit)(const nlohmann::json& config, const Resources& resources,
                            const KnownModels& models) = nullptr;
  /// The config.json of the model that is in all its outputs, as far as it is known beforehand; null for kinds that
  /// leave none.
  std::optional<nlohmann::json> (*model)(const nlohmann::json& config, const KnownModels& models) = nullptr;
};

}  // namespace braise::stages
