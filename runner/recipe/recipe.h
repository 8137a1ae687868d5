// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stages/api/descriptor.h"
#include "stages/api/fault.h"
#include "stages/api/job.h"
#include "stages/shared/yaml/node.h"

namespace braise::recipe {

/// What the command line adds to a recipe.
struct Overrides {
  std::vector<std::string> set;                   ///< "path=value", the value as YAML: "vars.width=512"
  std::vector<std::filesystem::path> vars_files;  ///< YAML maps, merged over `vars:`, later ones win
};

/// A file that the recipe was read from.
struct Source {
  std::string path;  ///< as named
  std::string text;
  std::filesystem::path folder;  ///< absolute: relative paths written in the file start there
};

/// A recipe as written: includes merged, overrides applied, references not yet resolved. Cheap to copy.
struct Document {
  yaml::Node root;
  std::vector<Source> sources;              ///< the recipe itself first, then what it includes, then files of variables
  std::filesystem::path directory;          ///< absolute folder of the recipe
  std::filesystem::path command_directory;  ///< absolute: relative paths given by --set start there
};

/// Reads a recipe. Nothing where it cannot be read as a recipe at all (the faults say why). With other faults, which
/// are all collected, a Document is still given so that further checks can report theirs in the same go.
std::optional<Document> load(const std::filesystem::path& path, const Overrides& overrides, stages::Faults& faults);

/// The same for a recipe that is no file: relative paths in it start at `directory`, which must be absolute, and
/// nothing can be included. `name` is for messages.
std::optional<Document> load_text(const std::string& text, const std::string& name,
                                  const std::filesystem::path& directory, const Overrides& overrides,
                                  stages::Faults& faults);

/// One point of a sweep: a value for each swept path, in the order of the recipe. Without a sweep there is one empty
/// point.
struct Point {
  std::vector<std::pair<std::string, yaml::Node>> values;  ///< ("stages.pretrain.optimizer.lr", 3e-4)
};

/// Every point of the sweep: the product of all lists, each zipped group counting as one list; the last list runs
/// fastest. Where the sweep is faulty, one point, made of the first values of what is right in it: enough to check the
/// rest by.
std::vector<Point> sweep_points(const Document& document, stages::Faults& faults);

/// A successive halving of a training's points: all are trained to the first rung, the best of them to the next.
struct Halving {
  std::string stage;
  std::vector<std::int64_t> rungs;  ///< steps, rising
  int factor = 0;                   ///< of so many points, one goes on
  yaml::Mark mark;
};

/// That of a sweep in which sweep_points has found no fault.
std::optional<Halving> sweep_halving(const Document& document);

/// A `${stages.<stage>.<output>}` in a stage's config: the config holds that very text at `pointer`.
struct Reference {
  std::string stage;
  std::string output;
  std::string pointer;  ///< JSON pointer into the config

  std::string text() const { return "${stages." + stage + "." + output + "}"; }
};

/// What a job asks of Slurm. The keys and their meaning: schemas/slurm.schema.json.
struct SlurmOptions {
  double time_s = 0;  ///< 0: the partition's default
  double grace_s = 0;
  bool exclusive = false;
  int max_running = 0;  ///< 0: no limit

  static SlurmOptions from_json(const nlohmann::json& object);
  nlohmann::json to_json() const;
};

/// A stage with everything known that can be known before it runs.
struct Stage {
  std::string name;
  std::string kind;
  std::int64_t seed = 0;
  nlohmann::json
      config;  ///< the kind's own keys (without kind, resources, slurm, after, seed), typed, defaults filled in
  stages::Resources resources;
  SlurmOptions slurm;
  std::vector<Reference> references;
  std::vector<std::string> after;  ///< stages that must have ended well before, besides those referred to
  stages::KnownModels models;      ///< of those that `references` stand for
  yaml::Mark mark;                 ///< of the stage's name
};

/// Stages in an order in which each follows those it needs, otherwise as written, by their places. Those it needs that
/// are not there are passed over; there must be no cycle.
std::vector<std::size_t> in_order(const std::vector<Stage>& stages);

/// A recipe, checked: all types right, all defaults filled in, all references to vars and env replaced.
struct Recipe {
  std::string name;
  std::string description;
  std::int64_t seed = 0;
  std::map<std::string, std::string> environment;  ///< the listed variables that the recipe may refer to, with values
  std::vector<Stage> stages;                       ///< in the order written
  /// The whole recipe as meant, for resolved.yaml: itself a recipe, which resolves to itself. Without `include`,
  /// `sweep` and the `x-` keys; literal text is in the form of a recipe (`$${` for `${`), as it is not in
  /// Stage::config.
  nlohmann::json resolved;
};

/// Resolves the document at one point of its sweep and checks it: schema, references, cycles, the kinds' own rules.
/// Nothing where there are faults (they are added to `faults`).
std::optional<Recipe> resolve(const Document& document, const Point& point, stages::Faults& faults);

/// The place of a dotted path in what was written: of the value itself or of the nearest thing above it.
yaml::Mark mark_of(const Document& document, const std::string& path);

}  // namespace braise::recipe
