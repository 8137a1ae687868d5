// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "runner/recipe/reference.h"
#include "stages/api/fault.h"
#include "stages/shared/yaml/node.h"

namespace braise::recipe {

/// What a scalar with references stands for.
struct Expansion {
  enum class Kind {
    failed,  ///< a fault has been reported
    value,   ///< `node`
    kept     ///< `node` is text that begins with a reference to a stage's output or to run.dir or run.scratch
  };
  Kind kind = Kind::failed;
  yaml::Node node;  ///< a scalar is literal text; text inside a map or list is as in a recipe, `$${` for `${`
  bool from_environment = false;          ///< the whole is an environment variable: text, whatever it looks like
  std::vector<std::string> stage_output;  ///< of a kept reference to a stage: its segments; else empty
};

/// The values that a recipe defines under `vars:` and the environment variables that it lists under `env:`.
class Variables {
 public:
  /// `vars` is a map (or null: none), `listed` the names under `env:`. All must outlive this.
  Variables(const yaml::Node& vars, const std::vector<std::string>& listed, stages::Faults& faults);

  /// Resolves every variable, so that every fault is reported; those that failed are left out. Text in what is returned
  /// is as in a recipe: `$${` for `${`.
  yaml::Node resolve_all();

  /// What a scalar stands for. `path` is its place in the recipe, for messages. References to stages and to the run are
  /// accepted where `in_stage`.
  Expansion expand(const yaml::Node& scalar, const std::string& path, bool in_stage);

  /// The listed variables that are set.
  std::map<std::string, std::string> environment() const;

 private:
  struct Asker;

  std::optional<yaml::Node> resolved(const yaml::Node& node, const std::string& path);
  std::optional<yaml::Node> deep(const yaml::Node& node, const std::string& path);
  std::optional<yaml::Node> find(const TemplatePart& part, const Asker& asker);
  std::optional<yaml::Node> find_variable(const TemplatePart& part, const Asker& asker);
  std::optional<yaml::Node> find_environment(const TemplatePart& part, const Asker& asker);
  bool charge(const yaml::Node& node, const Asker& asker);

  const yaml::Node& vars_;
  const std::vector<std::string>& listed_;
  stages::Faults& faults_;
  std::unordered_map<std::string, std::optional<yaml::Node>> done_;  // by path; nothing: failed
  std::vector<std::string> active_;                                  // paths being resolved, outermost first
  std::size_t expanded_ = 0;                                         // what all references have brought in so far
  bool exhausted_ = false;
};

}  // namespace braise::recipe
