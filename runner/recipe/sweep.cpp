// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <deque>

#include "runner/recipe/draw.h"
#include "runner/recipe/path.h"
#include "runner/recipe/recipe.h"
#include "runner/recipe/schema.h"
#include "runner/recipe/walk.h"

namespace braise::recipe {
namespace {

using yaml::Node;

constexpr std::size_t kMaxPoints = 100'000;
constexpr std::size_t kMaxPaths = 100;
constexpr std::size_t kMaxValues = 1'000'000;  // of all points together

/// Lists that are walked together, as the axis of a grid.
struct Axis {
  std::vector<std::pair<std::string, const Node*>> lists;  // swept path -> its list
  std::size_t length = 0;
};

/// Whether one path leads through the other.
bool overlap(const std::string& a, const std::string& b) {
  const std::string& shorter = a.size() < b.size() ? a : b;
  const std::string& longer = a.size() < b.size() ? b : a;
  return longer.compare(0, shorter.size(), shorter) == 0 &&
         (longer.size() == shorter.size() || longer[shorter.size()] == '.');
}

class Sweep {
 public:
  Sweep(const Document& document, stages::Faults& faults) : document_(document), faults_(faults) {}

  std::vector<Point> points() {
    const std::size_t faults_before = faults_.size();
    const auto& entries = document_.root.entries();
    const auto sweep = std::find_if(entries.begin(), entries.end(), [](const auto& e) { return e.key == "sweep"; });
    if (sweep == entries.end()) return {Point{}};
    const Place root;
    const Place place(root, sweep->key, sweep->key_mark);
    const nlohmann::json checked =
        Walker(nullptr, faults_).walk(*recipe_schema().map->find("sweep")->schema, sweep->value, place);
    for (const Node::Entry& entry : sweep->value.entries()) {
      const Place here(place, entry.key, entry.key_mark);
      if (entry.key == "random") {
        if (faults_.size() == faults_before) add_random(entry.value, checked.at("random"), here);
        continue;
      }
      if (entry.key == "halving") {
        if (faults_.size() == faults_before) check_halving(entry.value, checked.at("halving"), here);
        continue;
      }
      if (entry.key != "zip") {
        Axis axis;
        add_list(axis, entry, here);
        add_axis(std::move(axis));
        continue;
      }
      for (std::size_t i = 0; i < entry.value.items().size(); ++i) {
        const Node& group = entry.value.items()[i];
        add_group(group, Place(here, i, group.mark()));
      }
    }
    if (paths_.size() == kMaxPaths + 1) {
      faults_.push_back(
          {sweep->key_mark, "sweep", "has more than " + std::to_string(kMaxPaths) + " paths", "sweep over less"});
    }
    const std::size_t most = std::min(kMaxPoints, kMaxValues / std::max<std::size_t>(paths_.size(), 1));
    std::size_t count = 1;
    for (const Axis& axis : axes_) count = std::min(count * axis.length, most + 1);
    if (count > most) {
      faults_.push_back(
          {sweep->key_mark, "sweep", "has more than " + std::to_string(most) + " points", "sweep over less"});
    }
    return product(faults_.size() == faults_before ? count : 1);
  }

 private:
  void add_list(Axis& axis, const Node::Entry& entry, const Place& place) {
    if (entry.value.items().empty() || paths_.size() > kMaxPaths) return;  // reported elsewhere
    const auto unknown = unknown_path(document_.root, entry.key);
    const auto other =
        std::find_if(paths_.begin(), paths_.end(), [&](const std::string& p) { return overlap(p, entry.key); });
    if (unknown) {
      faults_.push_back({entry.key_mark, place.dotted(), unknown->first, unknown->second});
    } else if (other != paths_.end()) {
      faults_.push_back({entry.key_mark, place.dotted(),
                         "is swept twice: `" + stages::printable(*other) + "` is swept too", "sweep over one of them"});
    } else {
      paths_.push_back(entry.key);
      axis.lists.emplace_back(entry.key, &entry.value);
    }
  }

  void add_group(const Node& group, const Place& place) {
    Axis axis;
    for (const Node::Entry& entry : group.entries()) add_list(axis, entry, Place(place, entry.key, entry.key_mark));
    if (axis.lists.empty()) return;
    const std::size_t length = axis.lists[0].second->items().size();
    for (const auto& [path, list] : axis.lists) {
      if (list->items().size() == length) continue;
      faults_.push_back({list->mark(), place.dotted() + "." + path,
                         "has length " + std::to_string(list->items().size()),
                         "must have length " + std::to_string(length) + ", as `" + axis.lists[0].first + "` has"});
      return;
    }
    add_axis(std::move(axis));
  }

  /// `checked`: the same map, as the schema has it.
  void add_random(const Node& random, const nlohmann::json& checked, const Place& place) {
    const std::uint64_t samples = checked.at("samples");
    const std::uint64_t seed = checked.at("seed");
    const Node* parameters = random.find("parameters");
    if (samples == 0 || parameters == nullptr || parameters->entries().empty()) {
      faults_.push_back({*place.mark, place.dotted(), samples == 0 ? "has no `samples`" : "has no `parameters`",
                         "give both `samples`, the number of points, and `parameters`, what is drawn"});
      return;
    }
    Axis axis;
    const Place above(place, "parameters", parameters->mark());
    for (const Node::Entry& entry : parameters->entries()) {
      const Place here(above, entry.key, entry.key_mark);
      std::string problem, remedy;
      const std::optional<Distribution> distribution = Distribution::from_node(entry.value, problem, remedy);
      if (!distribution) {
        faults_.push_back({entry.key_mark, here.dotted(), std::move(problem), std::move(remedy)});
        continue;
      }
      if (samples > kMaxValues / (paths_.size() + 1)) {
        faults_.push_back({*place.mark, place.dotted(), "draws more than " + std::to_string(kMaxValues) + " values",
                           "take fewer samples or parameters"});
        return;
      }
      std::vector<Node> values;
      for (std::uint64_t i = 0; i < samples; ++i) values.push_back(draw(*distribution, seed, entry.key, i));
      drawn_.push_back({entry.key, entry.key_mark, Node::sequence(std::move(values), entry.value.mark())});
      add_list(axis, drawn_.back(), here);
    }
    add_axis(std::move(axis));
  }

  void check_halving(const Node& halving, const nlohmann::json& checked, const Place& place) {
    const auto fault = [&](const char* key, std::string problem, std::string remedy) {
      const Node* node = halving.find(key);
      const yaml::Mark& at = node == nullptr ? *place.mark : node->mark();
      faults_.push_back({at, Place(place, key, at).dotted(), std::move(problem), std::move(remedy)});
    };
    const std::string name = checked.at("stage");
    const Node* stages = document_.root.find("stages");
    const Node* stage = stages == nullptr ? nullptr : stages->find(name);
    const Node* kind = stage == nullptr ? nullptr : stage->find("kind");
    if (stage == nullptr) {
      fault("stage", name.empty() ? "is missing" : "there is no stage `" + stages::printable(name) + "`",
            "name a `train` stage of this recipe");
    } else if (kind != nullptr && kind->text() != "train") {
      fault("stage", "is of kind `" + stages::printable(kind->text()) + "`",
            "only `train` stages go on from a checkpoint: name one");
    }
    const nlohmann::json& rungs = checked.at("rungs");
    if (rungs.empty()) fault("rungs", "is missing", "give the steps after which the best points are selected");
    for (std::size_t i = 1; i < rungs.size(); ++i) {
      if (rungs[i] > rungs[i - 1]) continue;
      fault("rungs", "has " + rungs[i].dump() + " after " + rungs[i - 1].dump(), "give rising steps");
      break;
    }
  }

  void add_axis(Axis axis) {
    if (axis.lists.empty()) return;
    axis.length = axis.lists[0].second->items().size();
    axes_.push_back(std::move(axis));
  }

  /// The first `count` points.
  std::vector<Point> product(std::size_t count) const {
    std::vector<Point> points;
    points.reserve(count);
    std::vector<std::size_t> at(axes_.size(), 0);
    while (points.size() < count) {
      Point& point = points.emplace_back();
      for (std::size_t a = 0; a < axes_.size(); ++a) {
        for (const auto& [path, list] : axes_[a].lists) point.values.emplace_back(path, list->items()[at[a]]);
      }
      for (std::size_t a = axes_.size(); a-- > 0;) {
        if (++at[a] < axes_[a].length) break;
        at[a] = 0;
      }
    }
    return points;
  }

  const Document& document_;
  stages::Faults& faults_;
  std::vector<std::string> paths_;
  std::deque<Node::Entry> drawn_;  ///< the values of parameters, as if they were written
  std::vector<Axis> axes_;
};

}  // namespace

std::optional<Halving> sweep_halving(const Document& document) {
  const Node* sweep = document.root.find("sweep");
  const Node* halving = sweep == nullptr ? nullptr : sweep->find("halving");
  if (halving == nullptr) return std::nullopt;
  const Property* property = recipe_schema().map->find("sweep")->schema->map->find("halving");
  stages::Faults none;
  const nlohmann::json checked = Walker(nullptr, none).walk(*property->schema, *halving, Place());
  return Halving{checked.at("stage"), checked.at("rungs"), checked.at("factor"), halving->mark()};
}

std::vector<Point> sweep_points(const Document& document, stages::Faults& faults) {
  return Sweep(document, faults).points();
}

}  // namespace braise::recipe
