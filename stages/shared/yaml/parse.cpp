// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/yaml/parse.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <functional>
#include <map>
#include <sstream>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "stages/shared/yaml/text_check.h"

namespace braise::yaml {
namespace {

constexpr std::size_t kMaxAliasedValues = 100'000;
constexpr int kMaxDepth = 100;
constexpr std::string_view kMergeKey = "<<";
constexpr std::string_view kCoreTag = "tag:yaml.org,2002:";

/// Ends the parsing at a fault that has been noted.
struct Stop {};

/// A value with what it costs to expand it.
struct Built {
  Node node;
  std::size_t values = 1;
  int height = 1;
};

/// Makes a Node of yaml-cpp's events.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::string_view text, const LineTable& lines, std::vector<ParseFault>& faults)
      : text_(text), lines_(lines), faults_(faults) {}

  bool has_document() const { return documents_ > 0; }
  const Node& root() const { return root_; }
  const std::vector<std::string>& anchor_names() const { return anchor_names_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ == 0) return;
    const std::size_t at = offset(mark);
    if (text_.substr(at, 3) == "---") stop(at, "a second document begins", "a file holds one document: remove `---`");
    stop(at, "text after the end of the document", "check the indentation and the quotes above");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add_scalar(std::string(), false, null_offset(offset(mark)), anchor);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    const std::size_t at = offset(mark);
    if (value.find('\0') != std::string::npos) fault(at, "holds a NUL character", "remove the escape `\\0`");
    const bool text = tag == "!" || tag == std::string(kCoreTag) + "str";
    add_scalar(repair_escapes(value), text, at, anchor);
    if (text || tag == "?") return;
    static const std::map<std::string, std::vector<Type>, std::less<>> scalar_tags = {
        {"null", {Type::null}},
        {"bool", {Type::boolean}},
        {"int", {Type::integer}},
        {"float", {Type::real, Type::integer}},
    };
    const std::string core = core_tag(tag);
    const auto types = scalar_tags.find(core);
    if (types == scalar_tags.end()) return bad_tag(at, core == "map" || core == "seq" ? "!!" + core : tag);
    const Type type = Node::scalar(value, false, {}).type();
    if (std::find(types->second.begin(), types->second.end(), type) == types->second.end()) {
      fault(at, "tag `!!" + core + "` before a value that is " + describe(type), "remove the tag");
    }
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const std::size_t at = offset(mark);
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      fault(at, "the alias stands inside the very value it names", "a value cannot contain itself");
      add({Node::scalar(std::string(), false, lines_.mark(at)), 1, 1}, at);
      return;
    }
    // An alias expands to more than the few characters it takes to write, and aliases of aliases to far more.
    aliased_values_ += found->second.values;
    if (aliased_values_ > kMaxAliasedValues) {
      stop(at, "aliases expand to more than " + std::to_string(kMaxAliasedValues) + " values", "use fewer aliases");
    }
    add(found->second, at);
  }

  void OnAnchor(const YAML::Mark&, const std::string& name) override { anchor_names_.push_back(name); }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(false, offset(mark), tag, anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(true, offset(mark), tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct MapKey {
    std::string text;
    std::size_t at = 0;
    bool merge = false;
    bool usable = true;
  };

  /// A collection that has begun and not ended.
  struct Frame {
    bool is_map = false;
    std::size_t at = 0;
    YAML::anchor_t anchor = 0;
    std::size_t values = 1;
    int height = 1;
    std::vector<Node> items;
    // of a map
    bool key_next = true;
    MapKey key;
    std::vector<std::pair<MapKey, Node>> pairs;
    std::unordered_map<std::string, std::size_t> key_offsets;
  };

  std::size_t offset(const YAML::Mark& mark) const {
    return mark.pos < 0 ? text_.size() : std::min(static_cast<std::size_t>(mark.pos), text_.size());
  }

  /// yaml-cpp gives a missing value the place of whatever comes next: go back to the end of what stands before it.
  std::size_t null_offset(std::size_t at) const {
    const char c = at < text_.size() ? text_[at] : '\n';
    if (c == '~' || c == 'n' || c == 'N' || c == '&' || c == '!') return at;
    if (!frames_.empty() && frames_.back().is_map && !frames_.back().key_next) return frames_.back().key.at;
    const std::size_t before = at == 0 ? std::string_view::npos : text_.find_last_not_of(" \t\r\n", at - 1);
    return before == std::string_view::npos ? at : before;
  }

  void fault(std::size_t at, std::string problem, std::string remedy) {
    faults_.push_back({lines_.mark(at), std::move(problem), std::move(remedy)});
  }
  [[noreturn]] void stop(std::size_t at, std::string problem, std::string remedy) {
    fault(at, std::move(problem), std::move(remedy));
    throw Stop();
  }

  static std::string core_tag(const std::string& tag) {
    return tag.rfind(kCoreTag, 0) == 0 ? tag.substr(kCoreTag.size()) : std::string();
  }
  void bad_tag(std::size_t at, const std::string& tag) {
    fault(at, "tag `" + tag + "` has no meaning here", "remove the tag");
  }

  void add_scalar(std::string text, bool quoted, std::size_t at, YAML::anchor_t anchor) {
    Built built{Node::scalar(std::move(text), quoted, lines_.mark(at)), 1, 1};
    if (anchor != YAML::NullAnchor) anchors_[anchor] = built;
    add(std::move(built), at);
  }

  void open(bool is_map, std::size_t at, const std::string& tag, YAML::anchor_t anchor) {
    if (frames_.size() >= kMaxDepth) stop_too_deep(at);
    const std::string core = core_tag(tag);
    if (tag != "?" && tag != "!" && core != (is_map ? "map" : "seq")) bad_tag(at, core.empty() ? tag : "!!" + core);
    Frame frame;
    frame.is_map = is_map;
    frame.at = at;
    frame.anchor = anchor;
    frames_.push_back(std::move(frame));
  }

  [[noreturn]] void stop_too_deep(std::size_t at) {
    stop(at, "values nest deeper than " + std::to_string(kMaxDepth), "nest less");
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    Mark mark = lines_.mark(frame.at);
    Node node =
        frame.is_map ? make_map(frame, std::move(mark)) : Node::sequence(std::move(frame.items), std::move(mark));
    Built built{std::move(node), frame.values, frame.height};
    if (frame.anchor != YAML::NullAnchor) anchors_[frame.anchor] = built;
    add(std::move(built), frame.at);
  }

  /// Puts a finished value where it belongs.
  void add(Built built, std::size_t at) {
    if (frames_.size() + static_cast<std::size_t>(built.height) > kMaxDepth + 1) stop_too_deep(at);
    if (frames_.empty()) {
      root_ = std::move(built.node);
      return;
    }
    Frame& frame = frames_.back();
    frame.values += built.values;
    frame.height = std::max(frame.height, built.height + 1);
    if (!frame.is_map) {
      frame.items.push_back(std::move(built.node));
    } else if (frame.key_next) {
      frame.key = make_key(built.node, at, frame);
      frame.key_next = false;
    } else {
      frame.pairs.emplace_back(std::move(frame.key), std::move(built.node));
      frame.key_next = true;
    }
  }

  MapKey make_key(const Node& node, std::size_t at, Frame& frame) {
    MapKey key;
    key.at = at;
    if (!node.is_scalar() || node.type() == Type::null) {
      key.usable = false;
      fault(at, node.is_scalar() ? "a key is empty" : std::string("a key is ") + describe(node.type()),
            "a key must be text; quote a word that YAML takes for something else");
      return key;
    }
    key.text = node.text();
    key.merge = key.text == kMergeKey && !node.quoted();
    const auto [first, is_new] = frame.key_offsets.emplace(key.text, at);
    if (!is_new) {
      key.usable = false;
      const Mark earlier = lines_.mark(first->second);
      fault(at, "key `" + key.text + "` is given twice in one map",
            "it is first given at line " + std::to_string(earlier.line) + ", column " + std::to_string(earlier.column));
    }
    return key;
  }

  /// The map of a frame, with what its merge keys bring in standing where they stand.
  Node make_map(Frame& frame, Mark mark) {
    std::vector<Node::Entry> entries;
    entries.reserve(frame.pairs.size());
    std::unordered_set<std::string> merged;
    const auto merge = [&](const Node& source) {
      for (const Node::Entry& entry : source.entries()) {
        if (frame.key_offsets.contains(entry.key) || !merged.insert(entry.key).second) continue;
        entries.push_back(entry);
      }
    };
    for (auto& [key, value] : frame.pairs) {
      if (!key.usable) continue;
      if (!key.merge) {
        entries.push_back({std::move(key.text), lines_.mark(key.at), std::move(value)});
        continue;
      }
      const bool list = value.is_sequence();
      const bool maps = list && std::all_of(value.items().begin(), value.items().end(), std::mem_fn(&Node::is_map));
      if (!value.is_map() && !maps) {
        fault(key.at,
              std::string("the merge key `<<` has a value that is ") +
                  (list ? "a list of other things than maps" : describe(value.type())),
              "`<<` takes a map or a list of maps, such as `*name`");
        continue;
      }
      if (!list) merge(value);
      for (const Node& source : value.items()) merge(source);
    }
    return Node::map(std::move(entries), std::move(mark));
  }

  std::string_view text_;
  const LineTable& lines_;
  std::vector<ParseFault>& faults_;
  int documents_ = 0;
  Node root_;
  std::vector<Frame> frames_;
  std::unordered_map<YAML::anchor_t, Built> anchors_;
  std::vector<std::string> anchor_names_;
  std::size_t aliased_values_ = 0;
};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// yaml-cpp's syntax errors in words that help.
ParseFault reword(const YAML::ParserException& error, std::string_view text, const LineTable& lines,
                  const Builder& builder) {
  const std::string& message = error.msg;
  const std::size_t offset = error.mark.pos < 0 ? text.size() : static_cast<std::size_t>(error.mark.pos);
  const Mark at = lines.mark(offset);
  if (message.rfind(YAML::ErrorMsg::UNKNOWN_ANCHOR, 0) == 0) {
    const std::string_view rest = text.substr(std::min(offset, text.size()));
    const std::string alias(rest.substr(0, rest.find_first_of(" \t\r\n,]}")));
    std::string known;
    for (const std::string& anchor : builder.anchor_names()) known += (known.empty() ? "`&" : ", `&") + anchor + "`";
    return {at, "alias `" + alias + "` names no anchor",
            known.empty() ? "no anchor is set before it" : "the anchors set before it are " + known};
  }
  if (message == YAML::ErrorMsg::TAB_IN_INDENTATION) {
    return {at, "a tab in the indentation", "YAML is indented with spaces"};
  }
  std::string remedy = "check the indentation, the brackets and the quotes here and on the lines above";
  if (message == YAML::ErrorMsg::MAP_VALUE) remedy = "check the indentation; text that holds `: ` needs quotes";
  if (message == YAML::ErrorMsg::END_OF_MAP) remedy = "keys of one map must be indented alike, each with a `:`";
  if (message == YAML::ErrorMsg::END_OF_SEQ) remedy = "items of one list must be indented alike, each with a `- `";
  if (message == YAML::ErrorMsg::END_OF_MAP_FLOW) remedy = "separate keys with `,` and close the map with `}`";
  if (message == YAML::ErrorMsg::END_OF_SEQ_FLOW) remedy = "separate items with `,` and close the list with `]`";
  if (message == YAML::ErrorMsg::EOF_IN_SCALAR) {
    const std::size_t quote = find_open_quote(text);
    return {quote == std::string_view::npos ? at : lines.mark(quote), "YAML syntax: a quote is never closed",
            "close the quote"};
  }
  if (message == YAML::ErrorMsg::UNKNOWN_TOKEN) remedy = "quote text that begins with `@`, a backquote or `%`";
  if (contains(message, YAML::ErrorMsg::INVALID_ESCAPE)) remedy = "write `\\\\` for a backslash, or use single quotes";
  if (message == YAML::ErrorMsg::YAML_MAJOR_VERSION) remedy = "remove the `%YAML` line";
  const bool in_flow = message == YAML::ErrorMsg::END_OF_MAP_FLOW || message == YAML::ErrorMsg::END_OF_SEQ_FLOW;
  const std::size_t line_start = text.rfind('\n', offset == 0 ? 0 : offset - 1);
  const std::size_t reference = text.find("${", line_start == std::string_view::npos ? 0 : line_start);
  if (in_flow && reference < offset) remedy = "inside `{ }` and `[ ]`, put `${...}` in quotes";
  return {at, "YAML syntax: " + message, remedy};
}

}  // namespace

std::optional<Node> parse(const std::string& text, const std::string& name, std::vector<ParseFault>& faults) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  std::string_view content = text;
  if (content.substr(0, kByteOrderMark.size()) == kByteOrderMark) content.remove_prefix(kByteOrderMark.size());
  const LineTable lines(content, std::make_shared<const std::string>(name));

  std::optional<ParseFault> bad = find_bad_character(content, lines);
  if (!bad) bad = find_tab_indentation(content, lines);
  if (bad) {
    faults.push_back(std::move(*bad));
    return std::nullopt;
  }

  const std::size_t faults_before = faults.size();
  Builder builder(content, lines, faults);
  // yaml-cpp takes the end of the text for the end of a quote where it comes right after a line break: so let it not.
  const bool needs_end = !content.empty() && content.back() == '\n';
  std::istringstream stream(std::string(content) + (needs_end ? "#" : ""));
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    if (!builder.has_document()) faults.push_back({lines.mark(0), "is empty", "write a map of keys and values"});
  } catch (const Stop&) {
    // noted where it was thrown
  } catch (const YAML::ParserException& error) {
    faults.push_back(reword(error, content, lines, builder));
  }
  if (faults.size() > faults_before) return std::nullopt;
  return builder.root();
}

}  // namespace braise::yaml
