// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runner/recipe/place.h"
#include "runner/recipe/schema.h"
#include "runner/recipe/variables.h"
#include "stages/api/fault.h"
#include "stages/shared/yaml/node.h"

namespace braise::recipe {

/// What the walk over a stage needs besides the schema.
struct StageScope {
  const Place& place;
  /// Told of each `${stages.<stage>.<output>}`, with its segments, the scalar and its place.
  std::function<void(const std::vector<std::string>&, const yaml::Node&, const Place&)> reference;
};

/// Holds a value of a recipe against its schema: reports every fault, replaces references, converts units, makes paths
/// absolute and fills in defaults.
class Walker {
 public:
  /// Without `variables`, references are never accepted. All arguments must outlive the walker.
  Walker(Variables* variables, stages::Faults& faults) : variables_(variables), faults_(faults) {}

  /// Whether "${" is text like any other: for files that are no recipes.
  bool plain_text = false;
  /// The folder that relative paths written in a file start from.
  std::function<std::filesystem::path(const yaml::Mark&)> folder_of;
  /// The resolved value at a dotted path of the recipe, for `x-default`; nullptr where it is faulty itself.
  std::function<const nlohmann::json*(const std::string& path)> resolved_at;

  /// The value as meant. Where it is faulty the result means nothing and faults have been reported.
  nlohmann::json walk(const Schema& schema, const yaml::Node& node, const Place& place);
  /// The same for a stage, where references to stages and to the run are accepted.
  nlohmann::json walk_stage(const Schema& schema, const yaml::Node& node, const StageScope& scope);

  /// Any value, as JSON; numbers must be finite. Text is taken as it is.
  nlohmann::json walk_free(const yaml::Node& node, const Place& place);

  /// A key that is written and that its schema does not know. Gives the key that was probably meant; else empty.
  std::string report_unknown_key(const MapRule& rule, const std::string& key, const Place& place);
  /// A key that must be there and is not; `place` is of the map.
  void report_missing_key(const Property& property, const yaml::Node& map, const Place& place);

  /// What a key has that is left out; null where it has nothing.
  nlohmann::json missing_value(const Schema& schema) const;

  bool saw_literal_reference() const { return saw_literal_reference_; }

 private:
  nlohmann::json walk_text(const Schema& schema, const yaml::Node& written, const Place& place);
  nlohmann::json walk_value(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json accept_boolean(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json accept_number(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json accept_text(const Schema& schema, const yaml::Node& node, const Place& place, bool kept);
  nlohmann::json accept_quantity(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json accept_list(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json accept_map(const Schema& schema, const yaml::Node& node, const Place& place);
  nlohmann::json check_range(const Schema& schema, nlohmann::json value, const yaml::Node& node, const Place& place);
  std::string absolute(const std::string& path, const yaml::Mark& written_at) const;
  nlohmann::json fault(const yaml::Node& node, const Place& place, std::string problem, std::string remedy);
  nlohmann::json wrong_type(const Schema& schema, const yaml::Node& node, const Place& place);

  Variables* variables_;
  stages::Faults& faults_;
  const StageScope* stage_ = nullptr;
  const yaml::Node* referring_ = nullptr;  // the scalar whose reference gave the value that is being walked
  bool saw_literal_reference_ = false;
};

/// A value as messages show it: `"abc"`, `5`, `a list`.
std::string show(const yaml::Node& node);

}  // namespace braise::recipe
