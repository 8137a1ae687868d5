// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/path.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "runner/recipe/reference.h"
#include "runner/recipe/schema.h"
#include "stages/api/fault.h"

namespace braise::recipe {
namespace {

using yaml::Node;

std::pair<std::string, std::string> no_such_key(const std::string& above, const std::string& key,
                                                const std::vector<std::string>& keys) {
  const std::string near = stages::nearest(key, keys);
  const std::string prefix = above.empty() ? "" : above + ".";
  return {"there is no `" + stages::printable(prefix + key) + "`",
          near.empty() ? "give the path of a key of the recipe" : "did you mean `" + prefix + near + "`?"};
}

/// The schema of one key of a map; nullptr: anything. False where the map has no such key.
bool descend(const MapRule& rule, const std::string& key, const Schema*& schema) {
  for (const auto& [pattern, property] : rule.patterns) {
    if (pattern.matches(key)) {
      schema = property;
      return true;
    }
  }
  const Property* property = rule.find(key);
  schema = property != nullptr ? property->schema : rule.additional;
  return property != nullptr || (rule.open && (!rule.names || rule.names->matches(key)));
}

bool mentions(const Node& node, const std::string& text) {
  const auto& entries = node.entries();
  return node.text().find(text) != std::string::npos ||
         std::any_of(node.items().begin(), node.items().end(),
                     [&](const Node& item) { return mentions(item, text); }) ||
         std::any_of(entries.begin(), entries.end(), [&](const auto& entry) { return mentions(entry.value, text); });
}

/// Whether a recipe neither defines nor refers to a variable: then giving it a value is a slip of the pen.
bool is_unused_variable(const Node& root, const std::string& name) {
  const Node* vars = root.find("vars");
  return (vars == nullptr || vars->find(name) == nullptr) && !mentions(root, "${vars." + name);
}

}  // namespace

std::optional<std::pair<std::string, std::string>> unknown_path(const Node& root, const std::string& path) {
  const Schema* schema = &recipe_schema();
  const Node* node = &root;
  std::string above;
  const std::vector<std::string> segments = split_path(path);
  if (segments.size() > 1 && segments[0] == "vars" && is_unused_variable(root, segments[1])) {
    std::vector<std::string> names;
    const Node* vars = root.find("vars");
    if (vars != nullptr) {
      for (const Node::Entry& entry : vars->entries()) names.push_back(entry.key);
    }
    return no_such_key("vars", segments[1], names);
  }
  for (const std::string& key : segments) {
    const bool has_keys = node == nullptr || node->is_map() || node->type() == yaml::Type::null;
    if (!has_keys || (schema != nullptr && !schema->is_free() && !schema->map)) {
      return std::pair("`" + stages::printable(above) + "` has no keys, so no `" + stages::printable(key) + "`",
                       std::string("give the whole of it"));
    }
    if (schema != nullptr && schema->map) {
      const MapRule* rule = &*schema->map;
      if (!rule->by_kind.empty()) {  // a stage
        const Node* kind = node == nullptr ? nullptr : node->find("kind");
        const auto found = kind == nullptr ? rule->by_kind.end() : rule->by_kind.find(kind->text());
        if (node != nullptr && found == rule->by_kind.end() && key != "kind")
          return std::nullopt;  // a fault of its own
        if (found != rule->by_kind.end()) rule = &*found->second->map;
        if (node == nullptr) {
          const std::string name = above.substr(above.rfind('.') + 1);
          std::vector<std::string> names;
          const Node* all = root.find("stages");
          if (all != nullptr) {
            for (const Node::Entry& entry : all->entries()) names.push_back(entry.key);
          }
          return no_such_key("stages", name, names);
        }
      }
      if (!descend(*rule, key, schema)) {
        std::vector<std::string> keys;
        for (const Property& property : rule->properties) keys.push_back(property.name);
        return no_such_key(above, key, keys);
      }
    }
    if (node != nullptr) node = node->find(key);
    above += (above.empty() ? "" : ".") + key;
  }
  return std::nullopt;
}

Node with_path(const Node& root, const std::vector<std::string>& path, const Node& value, std::size_t depth) {
  if (depth == path.size()) return value;
  const Node* next = root.find(path[depth]);
  Node changed = with_path(next == nullptr ? Node() : *next, path, value, depth + 1);
  return (root.is_map() ? root : Node::map({}, value.mark())).with(path[depth], value.mark(), std::move(changed));
}

const Node& nearest_at(const Node& root, const std::vector<std::string>& path) {
  const Node* node = &root;
  for (const std::string& key : path) {
    const Node* next = node->find(key);
    if (node->is_sequence()) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      const bool inside = error == std::errc() && end == key.data() + key.size() && index < node->items().size();
      next = inside ? &node->items()[index] : nullptr;
    }
    if (next == nullptr) break;
    node = next;
  }
  return *node;
}

Node merge(const Node& base, const Node& over) {
  if (!base.is_map() || !over.is_map()) return over;
  std::vector<Node::Entry> entries = base.entries();
  std::unordered_map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < entries.size(); ++i) places[entries[i].key] = i;
  for (const Node::Entry& entry : over.entries()) {
    const auto [place, is_new] = places.emplace(entry.key, entries.size());
    if (is_new) {
      entries.push_back(entry);
    } else {
      Node::Entry& old = entries[place->second];
      old = {entry.key, entry.key_mark, merge(old.value, entry.value)};
    }
  }
  return Node::map(std::move(entries), over.mark());
}

}  // namespace braise::recipe
