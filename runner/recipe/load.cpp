// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "runner/recipe/path.h"
#include "runner/recipe/recipe.h"
#include "runner/recipe/reference.h"
#include "runner/recipe/schema.h"
#include "runner/recipe/source.h"
#include "runner/recipe/walk.h"
#include "stages/shared/yaml/parse.h"

namespace braise::recipe {
namespace {

namespace fs = std::filesystem;
using stages::Faults;
using yaml::Node;

constexpr std::size_t kMaxIncludeDepth = 16;
constexpr const char* kSet = "--set";

/// Absolute, without "." in it. ".." stays: what it leads to depends on symbolic links.
fs::path absolute_folder(const fs::path& path) {
  fs::path result;
  for (const fs::path& part : fs::absolute(path)) {
    if (part != "." && !part.empty()) result /= part;
  }
  return result;
}

class Loader {
 public:
  explicit Loader(Faults& faults) : faults_(faults) {}

  std::optional<Document> load(const fs::path& path, const Overrides& overrides) {
    const yaml::Mark named = file_mark(path.string());
    std::optional<Node> root = read(path, named, "");
    return root ? finish(std::move(*root), absolute_folder(path).parent_path(), overrides) : std::nullopt;
  }

  std::optional<Document> load_text(const std::string& text, const std::string& name, const fs::path& directory,
                                    const Overrides& overrides) {
    may_include_ = false;
    document_.sources.push_back({name, text, directory});
    const std::optional<Node> parsed = parse(text, name, "must be a map that begins with `recipe: 1`");
    if (!parsed) return std::nullopt;
    return finish(with_included(*parsed, fs::path(name)), directory, overrides);
  }

 private:
  static yaml::Mark file_mark(const std::string& name) { return {std::make_shared<const std::string>(name), 0, 0}; }

  std::optional<Document> finish(Node root, const fs::path& directory, const Overrides& overrides) {
    document_.root = std::move(root);
    document_.directory = directory;
    document_.command_directory = fs::current_path();
    for (const fs::path& path : overrides.vars_files) add_variables(path);
    for (const std::string& argument : overrides.set) set(argument);
    return std::move(document_);
  }

  /// The text of a file; faults are reported at `named`, where the file is named.
  std::optional<std::string> read_text(const fs::path& path, const yaml::Mark& named, const std::string& key) {
    SourceText source = read_source(path, kMaxSourceBytes - bytes_);
    if (!source.text) {
      const std::string subject = key.empty() ? "" : "`" + stages::printable(path.string()) + "` ";
      faults_.push_back({named, key, subject + source.problem, source.remedy});
      return std::nullopt;
    }
    bytes_ += source.text->size();
    document_.sources.push_back({path.string(), *source.text, absolute_folder(path).parent_path()});
    return std::move(source.text);
  }

  std::optional<Node> parse(const std::string& text, const std::string& name, const char* wanted) {
    std::vector<yaml::ParseFault> parse_faults;
    std::optional<Node> root = yaml::parse(text, name, parse_faults);
    for (yaml::ParseFault& fault : parse_faults) {
      faults_.push_back({std::move(fault.at), "", std::move(fault.problem), std::move(fault.remedy)});
    }
    if (root && !root->is_map()) {
      faults_.push_back({root->mark(), "", "is " + show(*root), wanted});
      return std::nullopt;
    }
    return root;
  }

  /// A recipe with what it includes, and all that those include.
  std::optional<Node> read(const fs::path& path, const yaml::Mark& named, const std::string& key) {
    std::error_code ignored;
    const fs::path identity = fs::weakly_canonical(path, ignored);
    const auto again = std::find(chain_.begin(), chain_.end(), identity);
    if (again != chain_.end()) {
      std::string cycle;
      for (auto file = again; file != chain_.end(); ++file) cycle += file->filename().string() + " -> ";
      faults_.push_back({named, key, "includes itself: " + stages::printable(cycle + identity.filename().string(), 400),
                         "break the cycle"});
      return std::nullopt;
    }
    if (chain_.size() > kMaxIncludeDepth) {
      faults_.push_back({named, key, "includes nest deeper than " + std::to_string(kMaxIncludeDepth), "nest less"});
      return std::nullopt;
    }
    const std::optional<std::string> text = read_text(path, named, key);
    if (!text) return std::nullopt;
    const std::optional<Node> parsed = parse(*text, path.string(), "must be a map that begins with `recipe: 1`");
    if (!parsed) return std::nullopt;
    chain_.push_back(identity);
    Node whole = with_included(*parsed, path);
    chain_.pop_back();
    return whole;
  }

  Node with_included(const Node& own, const fs::path& path) {
    const auto& entries = own.entries();
    const auto include = std::find_if(entries.begin(), entries.end(), [](const auto& e) { return e.key == "include"; });
    if (include == entries.end()) return own;
    const Node& list = include->value;
    const std::size_t faults_before = faults_.size();
    const Place root;
    const Place place(root, include->key, include->key_mark);
    Walker(nullptr, faults_).walk(*recipe_schema().map->find("include")->schema, list, place);
    Node whole = Node::map({}, own.mark());
    for (std::size_t i = 0; i < list.items().size() && faults_.size() == faults_before; ++i) {
      const Node& item = list.items()[i];
      const std::string key = "include." + std::to_string(i);
      if (!may_include_) {
        faults_.push_back(
            {item.mark(), key, "nothing can be included here", "only a recipe in a file can include others"});
        break;
      }
      const fs::path included = (path.parent_path() / item.text()).lexically_normal();
      const std::optional<Node> base = read(included, item.mark(), key);
      if (base) whole = merge(whole, *base);
    }
    return merge(whole, own.without("include"));
  }

  void add_variables(const fs::path& path) {
    const std::optional<std::string> text = read_text(path, file_mark(path.string()), "");
    if (!text) return;
    const std::optional<Node> vars = parse(*text, path.string(), "must be a map of variables");
    if (!vars) return;
    const Node* old = document_.root.find("vars");
    document_.root = document_.root.with("vars", vars->mark(), old == nullptr ? *vars : merge(*old, *vars));
  }

  void set_fault(const std::string& path, std::string problem, std::string remedy) {
    faults_.push_back({file_mark(kSet), path, std::move(problem), std::move(remedy)});
  }

  void set(const std::string& argument) {
    const std::size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0) {
      return set_fault("", "`" + stages::printable(argument) + "` is not of the form path=value",
                       "write it like `vars.width=512`");
    }
    const std::string path = argument.substr(0, equals);
    if (split_path(path).front() == "include") return set_fault(path, "cannot be set", "name the file in the recipe");
    const auto unknown = unknown_path(document_.root, path);
    if (unknown) return set_fault(path, unknown->first, unknown->second);
    const std::string text = argument.substr(equals + 1);
    std::vector<yaml::ParseFault> parse_faults;
    std::optional<Node> value;
    if (!text.empty()) value = yaml::parse(text, kSet, parse_faults);
    for (const yaml::ParseFault& fault : parse_faults) set_fault(path, "the value: " + fault.problem, fault.remedy);
    if (parse_faults.empty()) {
      const Node placed = relocated(value ? *value : Node(), file_mark(kSet));
      document_.root = with_path(document_.root, split_path(path), placed);
    }
  }

  /// A line and a column mean nothing on a command line.
  static Node relocated(const Node& node, const yaml::Mark& mark) {
    if (node.is_scalar()) return Node::scalar(node.text(), node.quoted(), mark);
    std::vector<Node> items;
    for (const Node& item : node.items()) items.push_back(relocated(item, mark));
    std::vector<Node::Entry> entries;
    for (const Node::Entry& entry : node.entries()) entries.push_back({entry.key, mark, relocated(entry.value, mark)});
    return node.is_map() ? Node::map(std::move(entries), mark) : Node::sequence(std::move(items), mark);
  }

  Faults& faults_;
  Document document_;
  std::vector<fs::path> chain_;  // of files that include each other, canonical
  std::size_t bytes_ = 0;        // read so far
  bool may_include_ = true;
};

}  // namespace

std::optional<Document> load(const fs::path& path, const Overrides& overrides, Faults& faults) {
  return Loader(faults).load(path, overrides);
}

std::optional<Document> load_text(const std::string& text, const std::string& name, const fs::path& directory,
                                  const Overrides& overrides, Faults& faults) {
  return Loader(faults).load_text(text, name, directory, overrides);
}

yaml::Mark mark_of(const Document& document, const std::string& path) {
  return nearest_at(document.root, split_path(path)).mark();
}

}  // namespace braise::recipe
