// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/data/examples.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "kernels/core/error.h"
#include "stages/shared/text/document_reader.h"
#include "stages/shared/weights/text.h"

namespace braise::data {
namespace {

constexpr std::size_t kFaultsShown = 20;
constexpr std::uint64_t kNoteEvery = 64 << 20;

/// What is wrong with the lines of all files.
class Faults {
 public:
  void add(const std::filesystem::path& file, std::uint64_t line, const std::string& what) {
    if (++count_ <= kFaultsShown) text_ += "\n  " + file.string() + ":" + std::to_string(line) + ": " + what;
  }
  void throw_if_any() const {
    if (count_ == 0) return;
    std::string message = std::to_string(count_) + (count_ == 1 ? " line is" : " lines are") + " no example:" + text_;
    if (count_ > kFaultsShown) message += "\n  and " + std::to_string(count_ - kFaultsShown) + " more";
    throw core::Error(message);
  }

 private:
  std::uint64_t count_ = 0;
  std::string text_;
};

struct Texts {
  std::string prompt;
  std::string completion;
};

/// What an object holds, for a message.
std::string keys_of(const nlohmann::json& object) {
  constexpr std::size_t kMost = 10;
  if (object.empty()) return "it has none";
  std::string keys;
  std::size_t count = 0;
  for (const auto& [key, value] : object.items()) {
    if (count++ == kMost) break;
    keys += (keys.empty() ? "it has " : ", ") + weights::in_quotes(key);
  }
  return object.size() > kMost ? keys + " and more" : keys;
}

/// The texts of a line, or what is wrong with it.
std::optional<std::string> parse(const std::string& line, const ExampleSource& source, Texts& texts) {
  if (!weights::is_utf8(line)) return "is not UTF-8";
  nlohmann::json object;
  bool repeated = false;
  std::vector<std::string> seen;
  const auto watch_keys = [&](int depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    if (event != nlohmann::json::parse_event_t::key || depth != 1) return true;
    const auto& key = value.get_ref<const std::string&>();
    if (key == source.prompt_key || key == source.completion_key) {
      repeated = repeated || std::find(seen.begin(), seen.end(), key) != seen.end();
      seen.push_back(key);
    }
    return true;
  };
  try {
    object = nlohmann::json::parse(line, watch_keys);
  } catch (const nlohmann::json::parse_error& error) {
    return "is not a line of JSON (at byte " + std::to_string(error.byte) + " of the line)";
  }
  if (!object.is_object()) return std::string("is ") + object.type_name() + ", not a JSON object";
  if (repeated) return "has a key twice";
  const auto take = [&](const std::string& key, std::string& text) -> std::optional<std::string> {
    const auto found = object.find(key);
    if (found == object.end()) return "has no key " + weights::in_quotes(key) + "; " + keys_of(object);
    if (!found->is_string())
      return "the value of " + weights::in_quotes(key) + " is " + found->type_name() + ", not a string";
    text = std::move(found->get_ref<std::string&>());
    return std::nullopt;
  };
  if (auto fault = take(source.prompt_key, texts.prompt)) return fault;
  return take(source.completion_key, texts.completion);
}

}  // namespace

/// Examples of one side while they are read.
struct Examples::Gathered {
  std::vector<std::int32_t> tokens;
  std::vector<Start> starts;
  std::uint64_t cut = 0;
  std::uint64_t skipped = 0;
};

Examples::Examples(const ExampleSource& source, const text::Tokenizer& tokenizer, std::int64_t sequence,
                   const Draw& draw, core::Arena& host, const std::function<void(const std::string&)>& note) {
  if (source.files.empty()) throw core::Error("a source of examples has no files");
  if (source.prompt_key == source.completion_key)
    throw core::Error("prompts and completions are both under the key " + weights::in_quotes(source.prompt_key));
  name_ = source.files.front().string();
  const std::optional<std::uint32_t> end = tokenizer.end_of_document();
  if (!end)
    throw core::Error(name_ +
                      ": the tokenizer ends no documents, so a model could not learn where a completion ends; "
                      "give it an end of document (`end_of_document: true`)");
  end_of_document_ = static_cast<std::int32_t>(*end);

  const auto most = static_cast<std::size_t>(sequence) + 1;
  const core::RandomStream split = draw.stream(0, Use::kSplit);
  Gathered train, validation;
  Faults faults;
  Texts texts;
  std::vector<std::uint32_t> tokens;
  std::uint64_t example = 0;
  for (const std::filesystem::path& file : source.files) {
    std::uint64_t noted = 0;
    const auto progress = [&](std::uint64_t bytes) {
      if (!note || bytes < noted) return;
      note("read examples of " + file.string() + ", byte " + std::to_string(bytes));
      noted = bytes + kNoteEvery;
    };
    text::DocumentReader reader(file, {text::DocumentFormat::Kind::text, text::DocumentUnit::line, ""},
                                {true, progress});
    for (std::string line; reader.next(line); ++example) {
      if (const auto fault = parse(line, source, texts)) {
        faults.add(file, reader.position().line, *fault);
        continue;
      }
      tokens.clear();
      tokenizer.encode(texts.prompt, tokens);
      const std::size_t prompt_tokens = tokens.size();
      tokenizer.encode(texts.completion, tokens);
      tokens.push_back(*end);

      Gathered& side = core::uniform(split.word(example)) < source.validation ? validation : train;
      const bool too_long = tokens.size() > most;
      // The first token of a sequence is nobody's target, nor is any of the prompt.
      const std::size_t first_target = std::max<std::size_t>(prompt_tokens, 1);
      if (first_target >= std::min(tokens.size(), most) ||
          (too_long && source.too_long == ExampleSource::TooLong::kSkip)) {
        ++side.skipped;
        continue;
      }
      if (too_long) ++side.cut;
      side.starts.push_back({side.tokens.size(), prompt_tokens});
      side.tokens.insert(side.tokens.end(), tokens.begin(),
                         tokens.begin() + static_cast<std::ptrdiff_t>(std::min(tokens.size(), most)));
    }
    file_digests_.push_back(reader.sha256());
  }
  faults.throw_if_any();
  const auto require = [&](const Gathered& side, const char* use) {
    if (!side.starts.empty()) return;
    throw core::Error(name_ + ": of " + std::to_string(example) + " examples none is left for " + use + " (" +
                      std::to_string(side.skipped) + " were too long for a sequence of " + std::to_string(sequence) +
                      "); use a longer `sequence`, another share for validation, or more examples");
  };
  require(train, "training");
  if (source.validation > 0) require(validation, "validation");
  keep(train_, std::move(train), host);
  keep(validation_, std::move(validation), host);
}

void Examples::keep(Kept& kept, Gathered&& gathered, core::Arena& host) {
  const std::size_t start_bytes = gathered.starts.size() * sizeof(Start);
  const std::size_t token_bytes = gathered.tokens.size() * sizeof(std::int32_t);
  kept.memory = host.allocate(static_cast<std::int64_t>(start_bytes + token_bytes), core::Category::kWorkspace, "data");
  kept.cut = gathered.cut;
  kept.skipped = gathered.skipped;
  if (gathered.starts.empty()) return;
  auto* const starts = static_cast<Start*>(kept.memory.data());
  auto* const tokens = reinterpret_cast<std::int32_t*>(starts + gathered.starts.size());
  std::memcpy(starts, gathered.starts.data(), start_bytes);
  std::memcpy(tokens, gathered.tokens.data(), token_bytes);
  kept.starts = {starts, gathered.starts.size()};
  kept.tokens = {tokens, gathered.tokens.size()};
}

Examples::Example Examples::example(Side side, std::uint64_t index) const {
  const Kept& kept = of(side);
  const Start start = kept.starts[index];
  const std::uint64_t end = index + 1 < kept.starts.size() ? kept.starts[index + 1].token : kept.tokens.size();
  const std::uint64_t prompt = std::max<std::uint64_t>(start.prompt_tokens, 1);
  return {kept.tokens.subspan(start.token, end - start.token - 1), kept.tokens[end - 1], prompt - 1};
}

}  // namespace braise::data
