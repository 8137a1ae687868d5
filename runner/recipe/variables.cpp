// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/variables.h"

#include <algorithm>
#include <cstdlib>

#include "stages/shared/yaml/text_check.h"

namespace braise::recipe {
namespace {

using yaml::Node;
using Kind = TemplatePart::Kind;

// References can double what they refer to at every step, as aliases can; these bound what a recipe expands to.
constexpr std::size_t kMaxExpansion = 100'000;
constexpr std::size_t kTextPerValue = 64;  // so many bytes of text count as one value more
constexpr std::size_t kMaxDepth = 100;

bool refers(const Node& node) {
  if (node.is_scalar()) return node.type() == yaml::Type::string && has_reference(node.text());
  const auto& entries = node.entries();
  return std::any_of(node.items().begin(), node.items().end(), refers) ||
         std::any_of(entries.begin(), entries.end(), [](const Node::Entry& entry) { return refers(entry.value); });
}

/// Adds up what a value costs; false where it nests too deep or costs more than the limit.
bool weigh(const Node& node, std::size_t depth, std::size_t& total) {
  total += 1 + node.text().size() / kTextPerValue;
  if (depth > kMaxDepth || total > kMaxExpansion) return false;
  const auto& entries = node.entries();
  return std::all_of(node.items().begin(), node.items().end(),
                     [&](const Node& n) { return weigh(n, depth + 1, total); }) &&
         std::all_of(entries.begin(), entries.end(),
                     [&](const Node::Entry& e) { return weigh(e.value, depth + 1, total); });
}

/// The literal text of a scalar that holds at most escapes.
std::string literal(const Node& scalar) {
  if (!refers(scalar)) return scalar.text();
  std::string text;
  for (const TemplatePart& part : parse_template(scalar.text()).parts) text += part.text;
  return text;
}

std::string join(const std::vector<std::string>& parts, const char* glue) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : glue) + part;
  return text;
}

}  // namespace

/// Who refers: for messages.
struct Variables::Asker {
  const yaml::Mark& at;
  const std::string& path;
  stages::Faults& faults;

  std::nullopt_t fault(std::string problem, std::string remedy) const {
    faults.push_back({at, path, std::move(problem), std::move(remedy)});
    return std::nullopt;
  }
};

Variables::Variables(const Node& vars, const std::vector<std::string>& listed, stages::Faults& faults)
    : vars_(vars), listed_(listed), faults_(faults) {}

Node Variables::resolve_all() {
  std::vector<Node::Entry> entries;
  for (const Node::Entry& entry : vars_.entries()) {
    std::optional<Node> value = resolved(entry.value, "vars." + entry.key);
    if (value) entries.push_back({entry.key, entry.key_mark, std::move(*value)});
  }
  return Node::map(std::move(entries), vars_.mark());
}

std::map<std::string, std::string> Variables::environment() const {
  std::map<std::string, std::string> values;
  for (const std::string& name : listed_) {
    const char* value = std::getenv(name.c_str());
    if (value != nullptr) values[name] = value;
  }
  return values;
}

std::optional<Node> Variables::resolved(const Node& node, const std::string& path) {
  if (!refers(node)) return node;
  const auto known = done_.find(path);
  if (known != done_.end()) return known->second;
  const auto again = std::find(active_.begin(), active_.end(), path);
  if (again != active_.end()) {
    std::vector<std::string> cycle(again, active_.end());
    cycle.push_back(path);
    faults_.push_back({node.mark(), path, "refers to itself: " + join(cycle, " -> "), "break the cycle"});
    return std::nullopt;
  }
  if (active_.size() >= kMaxDepth) {
    faults_.push_back({node.mark(), path, "refers on through more than " + std::to_string(kMaxDepth) + " variables",
                       "refer to values more directly"});
    return std::nullopt;
  }
  active_.push_back(path);
  std::optional<Node> value = deep(node, path);
  active_.pop_back();
  return done_[path] = std::move(value);
}

std::optional<Node> Variables::deep(const Node& node, const std::string& path) {
  if (!refers(node)) return node;
  if (node.is_scalar()) {
    Expansion expansion = expand(node, path, false);
    if (expansion.kind == Expansion::Kind::failed) return std::nullopt;
    if (!refers(expansion.node) || !expansion.node.is_scalar()) return expansion.node;
    return Node::scalar(escape_references(expansion.node.text()), true, expansion.node.mark());
  }
  bool ok = true;
  std::vector<Node> items;
  for (std::size_t i = 0; i < node.items().size(); ++i) {
    const std::optional<Node> item = deep(node.items()[i], path + "." + std::to_string(i));
    ok = ok && item;
    if (item) items.push_back(*item);
  }
  std::vector<Node::Entry> entries;
  for (const Node::Entry& entry : node.entries()) {
    const std::optional<Node> value = deep(entry.value, path + "." + entry.key);
    ok = ok && value;
    if (value) entries.push_back({entry.key, entry.key_mark, *value});
  }
  if (!ok) return std::nullopt;
  return node.is_map() ? Node::map(std::move(entries), node.mark()) : Node::sequence(std::move(items), node.mark());
}

Expansion Variables::expand(const Node& scalar, const std::string& path, bool in_stage) {
  const Asker asker{scalar.mark(), path, faults_};
  const Template text = parse_template(scalar.text());
  if (!text.ok()) {
    asker.fault(text.problem, text.remedy);
    return {};
  }
  Expansion result;
  std::string joined;
  for (std::size_t i = 0; i < text.parts.size(); ++i) {
    const TemplatePart& part = text.parts[i];
    if (part.kind == Kind::text) {
      joined += part.text;
      continue;
    }
    const std::string shown = "`${" + part.text + "}`";
    if (part.kind == Kind::run || part.kind == Kind::stages) {
      std::string problem, remedy;
      if (!in_stage) {
        problem = shown + " can be referred to in a stage only", remedy = "here are `${vars.NAME}` and `${env.NAME}`";
      } else if (part.kind == Kind::stages && !text.is_one_reference()) {
        problem = shown + " stands beside other text", remedy = "it must be the whole value";
      } else if (i > 0) {
        problem = shown + " stands behind other text", remedy = "it must begin the value";
      }
      if (!problem.empty()) {
        asker.fault(problem, remedy);
        return {};
      }
      result.kind = Expansion::Kind::kept;
      if (part.kind == Kind::stages) result.stage_output = part.segments;
      joined += "${" + part.text + "}";
      continue;
    }
    const std::optional<Node> value = find(part, asker);
    if (!value) return {};
    if (text.is_one_reference()) {
      result.kind = Expansion::Kind::value;
      result.node = refers(*value) && value->is_scalar() ? Node::scalar(literal(*value), true, value->mark()) : *value;
      result.from_environment = part.kind == Kind::env;
      return result;
    }
    const bool empty = value->type() == yaml::Type::null && part.kind != Kind::env;
    if (!value->is_scalar() || empty) {
      asker.fault(shown + " is " + yaml::describe(value->type()) + " and stands beside other text",
                  "only a single value can be part of a text");
      return {};
    }
    joined += literal(*value);
  }
  if (result.kind == Expansion::Kind::failed) result.kind = Expansion::Kind::value;
  result.node = Node::scalar(std::move(joined), true, scalar.mark());
  return result;
}

std::optional<Node> Variables::find(const TemplatePart& part, const Asker& asker) {
  std::optional<Node> value = part.kind == Kind::env ? find_environment(part, asker) : find_variable(part, asker);
  if (value && !charge(*value, asker)) return std::nullopt;
  return value;
}

std::optional<Node> Variables::find_variable(const TemplatePart& part, const Asker& asker) {
  Node node = vars_;
  std::string path = part.segments[0];
  for (std::size_t i = 1; i < part.segments.size(); ++i) {
    if (node.is_scalar()) {  // a map is gone through as it stands: a neighbour in it may refer to this one
      const std::optional<Node> above = resolved(node, path);
      if (!above) return std::nullopt;
      node = *above;
    }
    if (i > 1 && !node.is_map()) {
      return asker.fault("`${" + part.text + "}`: `" + path + "` is " + yaml::describe(node.type()),
                         "it has no key `" + part.segments[i] + "`");
    }
    const Node* next = node.find(part.segments[i]);
    if (next == nullptr) {
      std::vector<std::string> names;
      for (const Node::Entry& entry : node.entries()) names.push_back(entry.key);
      const std::string near = stages::nearest(part.segments[i], names);
      return asker.fault("there is no variable `" + path + "." + part.segments[i] + "`",
                         near.empty() ? "define it under `vars`" : "did you mean `${" + path + "." + near + "}`?");
    }
    node = Node(*next);
    path += "." + part.segments[i];
  }
  return resolved(node, path);
}

std::optional<Node> Variables::find_environment(const TemplatePart& part, const Asker& asker) {
  const std::string& name = part.segments[1];
  if (std::find(listed_.begin(), listed_.end(), name) == listed_.end()) {
    const std::string near = stages::nearest(name, listed_);
    return asker.fault("environment variable `" + name + "` is not listed under `env`",
                       near.empty() ? "add it: env: [" + name + "]" : "did you mean `${env." + near + "}`?");
  }
  const char* value = std::getenv(name.c_str());
  if (value == nullptr)
    return asker.fault("environment variable `" + name + "` is not set", "set it before braise starts");
  const std::string text = value;
  const yaml::LineTable lines(text, nullptr);
  if (yaml::find_bad_character(text, lines)) {
    return asker.fault("environment variable `" + name + "` is not plain UTF-8 text", "set it to UTF-8 text");
  }
  return Node::scalar(escape_references(text), has_reference(text), asker.at);
}

bool Variables::charge(const Node& node, const Asker& asker) {
  if (exhausted_) return false;
  if (weigh(node, 1, expanded_)) return true;
  exhausted_ = true;
  asker.fault("references expand to more than " + std::to_string(kMaxExpansion) + " values, or nest deeper than " +
                  std::to_string(kMaxDepth),
              "refer to less");
  return false;
}

}  // namespace braise::recipe
