// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "runner/recipe/path.h"
#include "runner/recipe/recipe.h"
#include "runner/recipe/reference.h"
#include "runner/recipe/schema.h"
#include "runner/recipe/variables.h"
#include "runner/recipe/walk.h"
#include "stages/api/descriptor.h"
#include "stages/registry.h"

namespace braise::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using stages::Faults;
using stages::StageDescriptor;
using yaml::Node;

/// Keys that every stage has and that are not its kind's own.
constexpr const char* kCommonKeys[] = {"kind", "resources", "slurm", "after", "seed"};

bool is_common_key(const std::string& key) {
  return std::find(std::begin(kCommonKeys), std::end(kCommonKeys), key) != std::end(kCommonKeys);
}

bool contains(const std::vector<std::string>& list, const std::string& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string join(const std::vector<std::string>& parts, const char* glue) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : glue) + part;
  return text;
}

/// Literal text of a resolved value in the form that means the same in a recipe.
void escape_literals(json& value) {
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    if (!has_reference(text)) return;
    const bool kept = text.rfind("${run.", 0) == 0 || text.rfind("${stages.", 0) == 0;
    const std::size_t head = kept ? text.find('}') : 0;
    value = text.substr(0, head) + escape_references(text.substr(head));
  } else if (value.is_structured()) {
    for (json& item : value) escape_literals(item);
  }
}

class Resolver {
 public:
  Resolver(const Document& document, Node root, Faults& faults)
      : document_(document), root_(std::move(root)), faults_(faults), faults_before_(faults.size()) {
    const Node* all = root_.find("stages");
    if (all == nullptr) return;
    for (const Node::Entry& entry : all->entries()) {
      stage_indices_[entry.key] = stage_entries_.size();
      stage_entries_.push_back(&entry);
      stage_names_.push_back(entry.key);
    }
    edges_.resize(stage_entries_.size());
  }

  std::optional<Recipe> run() {
    const Schema& schema = recipe_schema();
    const std::vector<std::string> listed = resolve_listed(*schema.map->find("env")->schema);
    const Node no_vars;
    const Node* vars = root_.find("vars");
    Variables variables(vars == nullptr ? no_vars : *vars, listed, faults_);
    Walker walker(&variables, faults_);
    walker.folder_of = [this](const yaml::Mark& mark) { return folder_of(mark); };
    walker.resolved_at = [this](const std::string& path) { return resolved_at(path); };

    resolve_top(walker, variables, *schema.map);
    resolve_stages(walker, *schema.map->find("stages")->schema);
    const std::size_t faults_before_cycles = faults_.size();
    report_cycles();
    if (faults_.size() == faults_before_cycles) learn_models();
    for (const Stage& stage : recipe_.stages) check_rules(stage);
    if (faults_.size() > faults_before_) return std::nullopt;

    recipe_.name = resolved_["name"];
    recipe_.description = resolved_["description"];
    recipe_.seed = resolved_["seed"];
    recipe_.environment = variables.environment();
    if (walker.saw_literal_reference()) {
      for (auto& [key, value] : resolved_.items()) {
        if (key != "vars") escape_literals(value);  // variables are in that form already
      }
    }
    recipe_.resolved = std::move(resolved_);
    return std::move(recipe_);
  }

 private:
  /// That one stage must wait for another.
  struct Edge {
    std::size_t to = 0;
    yaml::Mark at;
    std::string path;
  };

  const Node::Entry* entry_of(const char* key) const {
    const auto& entries = root_.entries();
    const auto found =
        std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.key == key; });
    return found == entries.end() ? nullptr : &*found;
  }

  fs::path folder_of(const yaml::Mark& mark) const {
    for (const Source& source : document_.sources) {
      if (mark.file && *mark.file == source.path) return source.folder;
    }
    return document_.command_directory;
  }

  const json* resolved_at(const std::string& path) const {
    const json* value = &resolved_;
    for (const std::string& key : split_path(path)) {
      const auto found = value->find(key);
      if (found == value->end()) return nullptr;
      value = &*found;
    }
    return value;
  }

  std::vector<std::string> resolve_listed(const Schema& schema) {
    const Node::Entry* entry = entry_of("env");
    resolved_["env"] = *schema.default_value;
    if (entry == nullptr) return {};
    const std::size_t faults_before = faults_.size();
    const Place root;
    json names = Walker(nullptr, faults_).walk(schema, entry->value, Place(root, entry->key, entry->key_mark));
    if (faults_.size() > faults_before) return {};
    resolved_["env"] = names;
    return names;
  }

  /// Everything but the stages.
  void resolve_top(Walker& walker, Variables& variables, const MapRule& rule) {
    const Place root;
    std::vector<std::string> meant;
    for (const Node::Entry& entry : root_.entries()) {
      const Place place(root, entry.key, entry.key_mark);
      const bool ignored = std::any_of(rule.patterns.begin(), rule.patterns.end(),
                                       [&](const auto& pattern) { return pattern.first.matches(entry.key); });
      if (ignored || entry.key == "env" || entry.key == "stages") continue;
      const Property* property = rule.find(entry.key);
      if (property == nullptr) {
        meant.push_back(walker.report_unknown_key(rule, entry.key, place));
      } else {
        const bool vars = entry.key == "vars" && entry.value.is_map();
        resolved_[entry.key] = walker.walk(*property->schema, vars ? variables.resolve_all() : entry.value, place);
      }
    }
    for (const Property& property : rule.properties) {
      if (root_.find(property.name) != nullptr || property.name == "include" || property.name == "sweep") continue;
      if (property.required) {
        if (!contains(meant, property.name)) walker.report_missing_key(property, root_, root);
      } else {
        resolved_.emplace(property.name, walker.missing_value(*property.schema));
      }
    }
    top_is_good_ = faults_.size() == faults_before_;
  }

  void resolve_stages(Walker& walker, const Schema& schema) {
    const Node::Entry* all = entry_of("stages");
    if (all == nullptr) return;
    const Place root;
    const Place place(root, all->key, all->key_mark);
    const MapRule& rule = *schema.map;
    if (!all->value.is_map() || all->value.entries().size() < rule.min_properties) {
      walker.walk(schema, all->value, place);  // reports it
      return;
    }
    resolved_["stages"] = json::object();
    for (std::size_t i = 0; i < stage_entries_.size(); ++i) {
      const Node::Entry& entry = *stage_entries_[i];
      const Place here(place, entry.key, entry.key_mark);
      if (!rule.names->matches(entry.key)) {
        faults_.push_back({entry.key_mark, here.dotted(), "is not a possible name", "must be " + rule.names_form});
      }
      resolve_stage(walker, *rule.additional, i, here);
    }
  }

  /// Tells each stage of the models that its references stand for, as far as the stages that will leave them know.
  void learn_models() {
    std::set<std::string> wanted;
    for (const Stage& stage : recipe_.stages) {
      for (const Reference& reference : stage.references) wanted.insert(reference.stage);
    }
    std::map<std::string, json> models;  // by stage
    for (const std::size_t place : in_order(recipe_.stages)) {
      Stage& stage = recipe_.stages[place];
      for (const Reference& reference : stage.references) {
        const auto found = models.find(reference.stage);
        if (found != models.end()) stage.models[reference.text()] = found->second;
      }
      const auto tell = stages::find_kind(stage.kind)->model;
      if (tell == nullptr || !wanted.contains(stage.name)) continue;
      if (const std::optional<json> model = tell(stage.config, stage.models)) models[stage.name] = *model;
    }
  }

  void resolve_stage(Walker& walker, const Schema& any_stage, std::size_t index, const Place& place) {
    const Node::Entry& entry = *stage_entries_[index];
    const std::size_t faults_before = faults_.size();
    const Node* kind = entry.value.find("kind");
    const Schema* schema = &any_stage;  // which reports a kind that is missing or unknown
    if (kind != nullptr && kind->is_scalar()) {
      const auto found = any_stage.map->by_kind.find(kind->text());
      if (found != any_stage.map->by_kind.end()) schema = found->second;
    }
    if (schema == &any_stage) {
      report_bad_kind(walker, any_stage, entry, place);
      return;
    }
    Stage stage;
    const StageScope scope{place, [&](const std::vector<std::string>& segments, const Node& scalar, const Place& at) {
                             add_reference(stage, index, segments, scalar, at.dotted(), at.pointer_from(place));
                           }};
    json resolved = walker.walk_stage(*schema, entry.value, scope);
    if (resolved.is_object() && resolved["after"].is_array()) add_after(stage, index, resolved["after"]);
    const StageDescriptor& descriptor = *stages::find_kind(kind->text());
    if (faults_.size() == faults_before && top_is_good_) fix_device(descriptor, entry, resolved["resources"]);
    if (faults_.size() > faults_before || !top_is_good_) return;

    stage.name = entry.key;
    stage.kind = kind->text();
    stage.mark = entry.key_mark;
    stage.seed = resolved["seed"];
    stage.resources = stages::Resources::from_json(resolved["resources"]);
    stage.slurm = SlurmOptions::from_json(resolved["slurm"]);
    stage.config = json::object();
    for (const auto& [key, value] : resolved.items()) {
      if (!is_common_key(key)) stage.config[key] = value;
    }
    resolved_["stages"][entry.key] = std::move(resolved);
    recipe_.stages.push_back(std::move(stage));
  }

  void report_bad_kind(Walker& walker, const Schema& any_stage, const Node::Entry& entry, const Place& place) {
    const Property& property = *any_stage.map->find("kind");
    const auto& entries = entry.value.entries();
    const auto kind = std::find_if(entries.begin(), entries.end(), [](const auto& e) { return e.key == "kind"; });
    if (!entry.value.is_map()) {
      walker.walk(any_stage, entry.value, place);
    } else if (kind == entries.end()) {
      const auto misspelt = std::find_if(entries.begin(), entries.end(),
                                         [](const auto& e) { return !stages::nearest(e.key, {"kind"}).empty(); });
      if (misspelt == entries.end()) return walker.report_missing_key(property, entry.value, place);
      walker.report_unknown_key(*any_stage.map, misspelt->key, Place(place, misspelt->key, misspelt->key_mark));
    } else {
      walker.walk(*property.schema, kind->value, Place(place, kind->key, kind->key_mark));
    }
  }

  /// The stage of that name, or a fault.
  std::optional<std::size_t> find_stage(const std::string& name, const yaml::Mark& at, const std::string& path) {
    const auto found = stage_indices_.find(name);
    if (found != stage_indices_.end()) return found->second;
    const std::string near = stages::nearest(name, stage_names_);
    faults_.push_back({at, path, "there is no stage `" + stages::printable(name) + "`",
                       near.empty() ? "name a stage of this recipe" : "did you mean `" + near + "`?"});
    return std::nullopt;
  }

  void add_reference(Stage& stage, std::size_t from, const std::vector<std::string>& segments, const Node& scalar,
                     const std::string& path, std::string pointer) {
    const std::optional<std::size_t> to = find_stage(segments[1], scalar.mark(), path);
    if (!to) return;
    edges_[from].push_back({*to, scalar.mark(), path});
    stage.references.push_back({segments[1], segments[2], std::move(pointer)});
    const Node* kind = stage_entries_[*to]->value.find("kind");
    const StageDescriptor* descriptor = kind == nullptr ? nullptr : stages::find_kind(kind->text());
    if (descriptor == nullptr) return;  // a fault of that stage
    std::vector<std::string> outputs;
    for (const stages::OutputDeclaration& output : descriptor->outputs) outputs.push_back(output.name);
    if (contains(outputs, segments[2])) return;
    const std::string near = stages::nearest(segments[2], outputs);
    faults_.push_back(
        {scalar.mark(), path,
         "stage `" + segments[1] + "` of kind `" + descriptor->kind + "` has no output `" + segments[2] + "`",
         near.empty() ? "its outputs are " + join(outputs, ", ")
                      : "did you mean `${stages." + segments[1] + "." + near + "}`?"});
  }

  void add_after(Stage& stage, std::size_t from, const json& names) {
    const Node::Entry& entry = *stage_entries_[from];
    const std::string path = "stages." + entry.key + ".after";
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (!names[i].is_string()) continue;  // a fault already
      const yaml::Mark at = entry.value.find("after")->items()[i].mark();
      const std::string item_path = path + "." + std::to_string(i);
      const std::optional<std::size_t> to = find_stage(names[i], at, item_path);
      if (!to) continue;
      edges_[from].push_back({*to, at, item_path});
      stage.after.push_back(names[i]);
    }
  }

  void fix_device(const StageDescriptor& descriptor, const Node::Entry& entry, json& resources) {
    std::string device = resources["device"];
    if (device == "auto") device = "cpu";  // the only backend of this build
    resources["device"] = device;
    if (contains(descriptor.devices, device) && device == "cpu") return;
    const bool other_kinds_device = contains(descriptor.devices, device);
    const auto written = [](const Node& above) {
      const Node* own = above.find("resources");
      return own == nullptr ? nullptr : own->find("device");
    };
    const Node* own = written(entry.value);
    const Node* shared = written(root_);
    const yaml::Mark at = own != nullptr ? own->mark() : shared != nullptr ? shared->mark() : entry.key_mark;
    faults_.push_back({at, "stages." + entry.key + ".resources.device",
                       other_kinds_device ? "is `" + device + "`, for which this build has no backend"
                                          : "is `" + device + "`, but stage kind `" + descriptor.kind + "` runs on " +
                                                join(descriptor.devices, " or "),
                       "choose another device for this stage"});
  }

  /// The rules of the kind itself.
  void check_rules(const Stage& stage) {
    const Node::Entry& entry = *stage_entries_[stage_indices_.at(stage.name)];
    const auto report = [&](std::string_view pointer, std::string problem, std::string remedy) {
      std::vector<std::string> keys;
      std::string path = "stages." + entry.key;
      if (!pointer.empty()) {
        for (json::json_pointer at{std::string(pointer)}; !at.empty(); at.pop_back())
          keys.insert(keys.begin(), at.back());
      }
      for (const std::string& key : keys) path += "." + key;
      const Node& nearest = nearest_at(entry.value, keys);
      const bool whole = &nearest == &entry.value;
      faults_.push_back({whole ? entry.key_mark : nearest.mark(), path, std::move(problem), std::move(remedy)});
    };
    stages::find_kind(stage.kind)->check({stage.config, stage.resources, stage.models, report});
  }

  /// Takes away stages that wait for nothing until only cycles and what waits for them are left; reports one cycle,
  /// takes it away, and so on.
  void report_cycles() {
    const std::size_t count = edges_.size();
    std::vector<std::vector<std::size_t>> waiting(count);
    std::vector<std::size_t> unmet(count);
    std::vector<bool> gone(count, false);
    std::vector<std::size_t> ready;
    for (std::size_t i = 0; i < count; ++i) {
      unmet[i] = edges_[i].size();
      for (const Edge& edge : edges_[i]) waiting[edge.to].push_back(i);
      if (unmet[i] == 0) ready.push_back(i);
    }
    const auto take_ready_away = [&] {
      while (!ready.empty()) {
        const std::size_t stage = ready.back();
        ready.pop_back();
        if (gone[stage]) continue;
        gone[stage] = true;
        for (const std::size_t other : waiting[stage]) {
          if (--unmet[other] == 0) ready.push_back(other);
        }
      }
    };
    take_ready_away();
    for (std::size_t start = 0; start < count; ++start) {
      if (gone[start]) continue;
      const std::vector<std::pair<std::size_t, const Edge*>> cycle = find_cycle(start, gone);
      std::string text;
      for (const auto& [stage, edge] : cycle) {
        text += stage_names_[stage] + " -> ";
        ready.push_back(stage);
      }
      const Edge& first = *cycle.front().second;
      faults_.push_back({first.at, first.path,
                         "stages wait for each other: " + text + stage_names_[cycle.front().first], "break the cycle"});
      take_ready_away();
    }
  }

  /// The cycle that one comes into from a stage that is not gone: each has an edge to another that is not gone either.
  std::vector<std::pair<std::size_t, const Edge*>> find_cycle(std::size_t start, const std::vector<bool>& gone) const {
    std::vector<std::pair<std::size_t, const Edge*>> way;
    std::unordered_map<std::size_t, std::size_t> position;
    std::size_t stage = start;
    while (position.emplace(stage, way.size()).second) {
      const auto next =
          std::find_if(edges_[stage].begin(), edges_[stage].end(), [&](const Edge& e) { return !gone[e.to]; });
      way.emplace_back(stage, &*next);
      stage = next->to;
    }
    way.erase(way.begin(), way.begin() + static_cast<std::ptrdiff_t>(position[stage]));
    // Begins with the stage written first, so that the message does not depend on where the search began.
    std::rotate(way.begin(), std::min_element(way.begin(), way.end()), way.end());
    return way;
  }

  const Document& document_;
  Node root_;
  Faults& faults_;
  const std::size_t faults_before_;
  std::vector<const Node::Entry*> stage_entries_;
  std::vector<std::string> stage_names_;
  std::unordered_map<std::string, std::size_t> stage_indices_;
  std::vector<std::vector<Edge>> edges_;  // by stage: those it waits for
  json resolved_ = json::object();
  Recipe recipe_;
  bool top_is_good_ = false;
};

}  // namespace

SlurmOptions SlurmOptions::from_json(const json& object) {
  return {object.at("time"), object.at("grace"), object.at("exclusive"), object.at("max_running")};
}

json SlurmOptions::to_json() const {
  return {{"time", time_s}, {"grace", grace_s}, {"exclusive", exclusive}, {"max_running", max_running}};
}

std::optional<Recipe> resolve(const Document& document, const Point& point, Faults& faults) {
  Node root = document.root.without("sweep");
  for (const auto& [path, value] : point.values) root = with_path(root, split_path(path), value);
  return Resolver(document, std::move(root), faults).run();
}

}  // namespace braise::recipe
