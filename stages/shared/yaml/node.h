// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stages/shared/yaml/mark.h"

namespace braise::yaml {

enum class Type { null, boolean, integer, real, string, sequence, map };

/// "a list", "a whole number" ...: for messages.
const char* describe(Type type);

/// A value of a YAML document with the place it was written at. Scalars are typed by the YAML 1.2 core schema: quoted
/// ones are strings. A Node is immutable and shares what it holds, so copies are cheap; changes make a new Node.
class Node {
 public:
  struct Entry;  ///< a key with its value

  Node();  ///< null, no place
  static Node scalar(std::string text, bool quoted, Mark mark);
  static Node sequence(std::vector<Node> items, Mark mark);
  static Node map(std::vector<Entry> entries, Mark mark);

  Type type() const;
  const Mark& mark() const;
  bool is_map() const { return type() == Type::map; }
  bool is_sequence() const { return type() == Type::sequence; }
  bool is_scalar() const { return !is_map() && !is_sequence(); }

  const std::string& text() const;            ///< a scalar's text as written, unquoted; else empty
  bool quoted() const;                        ///< whether a scalar was quoted
  const std::vector<Node>& items() const;     ///< of a sequence; else empty
  const std::vector<Entry>& entries() const;  ///< of a map, in the order written; else empty

  const Node* find(std::string_view key) const;  ///< the value of a map's key; nullptr where missing

  /// The same map with `key` set to `value` (replaced in place, or added at the end).
  Node with(const std::string& key, const Mark& key_mark, Node value) const;
  Node without(std::string_view key) const;

  /// The value without places: integers as int64, reals as double.
  nlohmann::json to_json() const;

 private:
  struct Content;
  explicit Node(std::shared_ptr<const Content> content) : content_(std::move(content)) {}
  std::shared_ptr<const Content> content_;
};

struct Node::Entry {
  std::string key;
  Mark key_mark;
  Node value;
};

}  // namespace braise::yaml
