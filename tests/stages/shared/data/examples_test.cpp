// SPDX-License-Identifier: Apache-2.0
#include <zlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "stages/shared/data/dataset.h"
#include "tests/stages/shared/data/data_files.h"

namespace braise::data {
namespace {

using test::Sequence;
using test::Values;

const nlohmann::json kBytes = {{"kind", "bytes"}, {"end_of_document", true}};
constexpr std::int32_t kEnd = 256;

struct Pair {
  std::string prompt, completion;
};

std::string line_of(const Pair& pair) {
  return nlohmann::json{{"prompt", pair.prompt}, {"completion", pair.completion}}.dump() + "\n";
}

std::string lines_of(const std::vector<Pair>& pairs) {
  std::string lines;
  for (const Pair& pair : pairs) lines += line_of(pair);
  return lines;
}

/// Pairs that differ from each other, of mixed lengths.
std::vector<Pair> some_pairs(int count) {
  std::vector<Pair> pairs;
  std::uint32_t random = 5;
  for (int i = 0; i < count; ++i) {
    random = random * 1664525 + 1013904223;
    pairs.push_back({std::to_string(i) + std::string((random >> 8) % 9, 'p'), std::string((random >> 16) % 7, 'c')});
  }
  return pairs;
}

/// One example alone, without the padding.
Sequence alone(const Pair& pair, std::size_t most) {
  Values tokens;
  for (const char c : pair.prompt + pair.completion) tokens.push_back(static_cast<unsigned char>(c));
  tokens.push_back(kEnd);
  tokens.resize(std::min(tokens.size(), most + 1));
  Sequence expected;
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
    expected.ids.push_back(tokens[t]);
    expected.targets.push_back(t + 1 < pair.prompt.size() ? kIgnored : tokens[t + 1]);
  }
  return expected;
}

struct Finetuning {
  Finetuning(const std::string& text, std::int64_t sequence, bool pack, ExampleSource wanted = {}) : source(wanted) {
    source.files = {folder.write("a.jsonl", text)};
    source.pack = pack;
    settings = {4, sequence, Cutting::kWindows, pack};
    open();
  }
  void open() { dataset.emplace(settings, std::vector<Source>{{source, 1}}, kBytes, memory.arena); }
  std::vector<Sequence> epoch(std::uint64_t number) const {
    const BatchSource& training = dataset->training();
    const std::uint64_t size = training.summaries().at(0).sequences_per_epoch;
    return test::fetch(training, number * size, static_cast<std::int64_t>(size));
  }

  test::TemporaryFolder folder;
  test::HostMemory memory;
  DatasetSettings settings;
  ExampleSource source;
  std::optional<Dataset> dataset;
};

TEST_CASE("one example a sequence: loss on the completion and its end alone") {
  const std::vector<Pair> pairs = some_pairs(50);
  const Finetuning data(lines_of(pairs), 20, false);
  CHECK(data.dataset->vocabulary_size() == 257);
  for (const std::uint64_t epoch : {0, 1}) {
    std::map<Values, int> seen;
    for (const Sequence& sequence : data.epoch(epoch)) {
      CHECK(sequence.positions.empty());
      ++seen[sequence.ids];
      const auto same = [&](const Pair& pair) {
        Sequence expected = alone(pair, 20);
        expected.ids.resize(20, kEnd);
        expected.targets.resize(20, kIgnored);
        return expected == sequence;
      };
      CHECK(std::count_if(pairs.begin(), pairs.end(), same) == 1);
    }
    CHECK(seen.size() == pairs.size());
  }
  CHECK(data.epoch(0) != data.epoch(1));
}

TEST_CASE("packed examples do not see each other") {
  const std::vector<Pair> pairs = some_pairs(60);
  const Finetuning data(lines_of(pairs), 24, true);
  std::map<Values, Values> expected;
  std::size_t positions = 0;
  for (const Pair& pair : pairs) {
    expected[alone(pair, 24).ids] = alone(pair, 24).targets;
    positions += alone(pair, 24).ids.size();
  }
  REQUIRE(expected.size() == pairs.size());
  for (const std::uint64_t epoch : {0, 1, 2}) {
    std::set<Values> seen;
    const auto sequences = data.epoch(epoch);
    CHECK(sequences.size() < pairs.size() / 2);
    CHECK(data.dataset->training().summaries()[0].padding ==
          Approx(1 - static_cast<double>(positions) / static_cast<double>(24 * sequences.size())));
    for (const Sequence& sequence : sequences) {
      for (std::size_t begin = 0; begin < 24;) {
        std::size_t end = begin;
        for (; end < 24 && sequence.document_starts[end] == static_cast<std::int32_t>(begin); ++end)
          CHECK(sequence.positions[end] == static_cast<std::int32_t>(end - begin));
        REQUIRE(end > begin);
        const auto from = static_cast<std::ptrdiff_t>(begin), to = static_cast<std::ptrdiff_t>(end);
        const Values ids(sequence.ids.begin() + from, sequence.ids.begin() + to);
        const Values targets(sequence.targets.begin() + from, sequence.targets.begin() + to);
        if (expected.count(ids) == 0) {
          CHECK(end == 24);
          CHECK(ids == Values(ids.size(), kEnd));
          CHECK(targets == Values(ids.size(), kIgnored));
        } else {
          CHECK(targets == expected[ids]);
          CHECK(seen.insert(ids).second);
        }
        begin = end;
      }
    }
    CHECK(seen.size() == pairs.size());
  }
  CHECK(data.epoch(0) != data.epoch(1));
  CHECK_THAT(test::error_of([&] {
               Finetuning unmasked(lines_of(pairs), 24, true);
               unmasked.settings.document_mask = false;
               unmasked.open();
             }),
             Catch::Contains("`document_mask: true`"));
}

TEST_CASE("examples that are too long are cut or left out, and counted") {
  const std::vector<Pair> pairs = {{"ab", "cdefgh"},      // 8 positions
                                   {"ab", "cdefghi"},     // 9
                                   {"abcdefg", "xyz"},    // one completion token is left
                                   {"abcdefgh", "xyz"},   // one
                                   {"abcdefghi", "xyz"},  // none is left
                                   {"", "x"},             // its end is a target
                                   {"", ""},              // nothing to learn from
                                   {"", "abcdefghijklmnopqrs"}};
  const Finetuning cut(lines_of(pairs), 8, false);
  const SourceSummary summary = cut.dataset->training().summaries().at(0);
  CHECK(summary.documents == 6);
  CHECK(summary.examples_cut == 4);
  CHECK(summary.examples_skipped == 2);
  std::multiset<Values> targets, expected;
  for (const Sequence& sequence : cut.epoch(0)) targets.insert(sequence.targets);
  for (const std::size_t i : {0, 1, 2, 3, 5, 7}) {
    Values values = alone(pairs[i], 8).targets;
    values.resize(8, kIgnored);
    expected.insert(values);
  }
  CHECK(targets == expected);
  CHECK(expected.count({kIgnored, kIgnored, kIgnored, kIgnored, kIgnored, kIgnored, kIgnored, 'x'}) == 1);

  ExampleSource skip;
  skip.too_long = ExampleSource::TooLong::kSkip;
  const Finetuning skipped(lines_of(pairs), 8, false, skip);
  CHECK(skipped.dataset->training().summaries()[0].documents == 2);
  CHECK(skipped.dataset->training().summaries()[0].examples_cut == 0);
  CHECK(skipped.dataset->training().summaries()[0].examples_skipped == 6);
  CHECK(skipped.dataset->training().digest() != cut.dataset->training().digest());

  CHECK_THAT(test::error_of([&] {
               Finetuning(line_of({"abc", "d"}), 2, false, skip);
             }),
             Catch::Contains("of 1 examples none is left for training (1 were too long for a sequence of 2)"));
  CHECK_THAT(test::error_of([&] { Finetuning("\n\n", 2, false); }), Catch::Contains("of 0 examples none"));
}

TEST_CASE("keys can be others, more may be there, and lines may be blank") {
  ExampleSource source;
  source.prompt_key = "question";
  source.completion_key = "answer";
  const Finetuning data("\n{\"answer\": \"B\\u00e9\", \"id\": [1, {\"question\": 2}], \"question\": \"A\"}\r\n  \n", 8,
                        false, source);
  const Sequence sequence = data.epoch(0).at(0);
  CHECK(sequence.ids == Values{'A', 'B', 0xc3, 0xa9, kEnd, kEnd, kEnd, kEnd});
  CHECK(sequence.targets == Values{'B', 0xc3, 0xa9, kEnd, kIgnored, kIgnored, kIgnored, kIgnored});
  source.completion_key = "question";
  CHECK_THAT(test::error_of([&] { Finetuning("", 8, false, source); }), Catch::Contains("both under the key"));
}

TEST_CASE("lines that are no examples are named, the first twenty") {
  const std::string good = line_of({"a", "b"});
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"{\"prompt\": \"a\"", "is not a line of JSON (at byte 16 of the line)"},
      {"[\"prompt\"]", "is array, not a JSON object"},
      {"7", "is number, not a JSON object"},
      {"{\"prompt\": \"a\", \"response\": \"b\"}", "has no key \"completion\"; it has \"prompt\", \"response\""},
      {"{}", "has no key \"prompt\"; it has none"},
      {"{\"prompt\": \"a\", \"completion\": null}", "the value of \"completion\" is null, not a string"},
      {"{\"prompt\": [\"a\"], \"completion\": \"b\"}", "the value of \"prompt\" is array, not a string"},
      {"{\"prompt\": \"\xff\", \"completion\": \"b\"}", "is not UTF-8"},
      {"{\"prompt\": \"\\ud800\", \"completion\": \"b\"}", "is not a line of JSON"},
      {"{\"prompt\": \"a\", \"completion\": \"b\", \"prompt\": \"c\"}", "has a key twice"},
      {std::string("{\"prompt\": \"a\0\", \"completion\": \"b\"}", 36), "is not a line of JSON"},
      {"{\"prompt\": \"a\", \"completion\": \"b\"} x", "is not a line of JSON"}};
  std::string text;
  for (const auto& [line, message] : bad) text += good + line + "\n";
  const std::string error = test::error_of([&] { Finetuning(text, 8, false); });
  CHECK_THAT(error, Catch::StartsWith("12 lines are no example:"));
  for (std::size_t i = 0; i < bad.size(); ++i)
    CHECK_THAT(error, Catch::Contains("a.jsonl:" + std::to_string(2 * i + 2) + ": " + bad[i].second));
  CHECK(std::count(error.begin(), error.end(), '\n') == 12);

  std::string many;
  for (int i = 0; i < 25; ++i) many += "x\n";
  const std::string long_error = test::error_of([&] { Finetuning(many, 8, false); });
  CHECK_THAT(long_error, Catch::Contains("a.jsonl:20: ") && !Catch::Contains("a.jsonl:21: "));
  CHECK_THAT(long_error, Catch::EndsWith("\n  and 5 more"));
  CHECK_THAT(test::error_of([] { Finetuning("x\n", 8, false); }), Catch::StartsWith("1 line is no example:"));
}

TEST_CASE("several files, also compressed, are one list of examples") {
  const std::vector<Pair> pairs = some_pairs(40);
  const Finetuning whole(lines_of(pairs), 24, true);
  Finetuning parts(lines_of({pairs.begin(), pairs.begin() + 15}), 24, true);
  const std::string rest = lines_of({pairs.begin() + 15, pairs.end()});
  const std::string packed = (parts.folder.path() / "b.jsonl.gz").string();
  gzFile file = gzopen(packed.c_str(), "wb");
  REQUIRE(gzwrite(file, rest.data(), static_cast<unsigned>(rest.size())) == static_cast<int>(rest.size()));
  gzclose(file);
  parts.source.files.push_back(packed);
  parts.open();
  CHECK(parts.epoch(1) == whole.epoch(1));
  CHECK(parts.dataset->training().digest() != whole.dataset->training().digest());
  parts.source.files.push_back(parts.folder.path() / "none.jsonl");
  CHECK_THAT(test::error_of([&] { parts.open(); }), Catch::Contains("none.jsonl"));
}

TEST_CASE("a share of the examples is kept for validation, drawn by the seed") {
  const std::vector<Pair> pairs = some_pairs(400);
  ExampleSource source;
  source.validation = 0.25;
  Finetuning data(lines_of(pairs), 24, false, source);
  REQUIRE(data.dataset->validation() != nullptr);
  const auto ids_of = [](const std::vector<Sequence>& sequences) {
    std::set<Values> ids;
    for (const Sequence& sequence : sequences) ids.insert(sequence.ids);
    return ids;
  };
  const auto held_out = [&] {
    const BatchSource& validation = *data.dataset->validation();
    return test::fetch(validation, 0, static_cast<std::int64_t>(validation.sequences()));
  };
  const std::set<Values> kept = ids_of(held_out()), train = ids_of(data.epoch(0));
  CHECK(kept.size() > 65);
  CHECK(kept.size() < 135);
  CHECK(kept.size() + train.size() == pairs.size());
  for (const Values& ids : kept) CHECK(train.count(ids) == 0);
  data.settings.seed = 5;
  data.open();
  CHECK(ids_of(held_out()) != kept);
  data.source.validation = 0;
  data.open();
  CHECK(data.dataset->validation() == nullptr);
  // Which are kept does not depend on what is too long.
  CHECK_THAT(test::error_of([&] {
               Finetuning(line_of({"a", "b"}), 24, false, source);
             }),
             Catch::Contains("none is left for"));
}

TEST_CASE("examples need a tokenizer that ends documents") {
  test::TemporaryFolder folder;
  test::HostMemory memory;
  ExampleSource source;
  source.files = {folder.write("a.jsonl", line_of({"a", "b"}))};
  source.pack = false;
  CHECK_THAT(test::error_of([&] {
               Dataset({1, 8, Cutting::kWindows, false}, {{source, 1}}, {{"kind", "bytes"}, {"end_of_document", false}},
                       memory.arena);
             }),
             Catch::Contains("a.jsonl: the tokenizer ends no documents"));
  CHECK_THAT(test::error_of([&] {
               Dataset({1, 8, Cutting::kWindows, false}, {{source, 1}}, nullptr, memory.arena);
             }),
             Catch::Contains("needs a tokenizer"));
}

TEST_CASE("examples beside token files") {
  Finetuning data(lines_of(some_pairs(30)), 24, true);
  test::TokenContent content;
  content.vocabulary_size = 257;
  content.end_of_document = 256;
  content.train = {test::numbered({100, 50, 60})};
  const std::vector<Source> sources = {
      {TokenSource{test::write_token_files(data.folder.path() / "tokens", content), ""}, 3}, {data.source, 1}};
  const Dataset dataset(data.settings, sources, kBytes, data.memory.arena);
  std::vector<int> counts(2);
  for (std::uint64_t n = 0; n < 100; ++n) ++counts[dataset.training().origin(n).source];
  CHECK(std::abs(counts[0] - 75) < 2);
  for (std::uint64_t n = 0; n < 100; ++n) {
    const Sequence sequence = test::fetch(dataset.training(), n, 1).at(0);
    CHECK(sequence.document_starts.size() == 24);
    const bool numbers = dataset.training().origin(n).source == 0;
    // Tokens of the file count upwards, texts of the examples do not.
    if (numbers) CHECK(sequence.ids[1] == sequence.ids[0] + 1);
  }
}

TEST_CASE("real instructions: what is learned is the completions' bytes and ends") {
  const std::filesystem::path file = test::shared_data() / "datasets/sft/dolly_hhrlhf_first400.jsonl";
  if (!std::filesystem::exists(file)) {
    WARN("skipped: no real instructions here");
    return;
  }
  test::HostMemory memory;
  ExampleSource source;
  source.files = {file};
  source.completion_key = "response";
  source.too_long = ExampleSource::TooLong::kSkip;
  const Dataset dataset({1, 1024, Cutting::kWindows, true}, {{source, 1}}, kBytes, memory.arena);
  const SourceSummary summary = dataset.training().summaries().at(0);
  std::multiset<std::string> expected, learned;
  std::ifstream lines(file);
  std::uint64_t skipped = 0;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json example = nlohmann::json::parse(line);
    const std::string prompt = example.at("prompt"), response = example.at("response");
    if (prompt.size() + response.size() > 1024) {
      ++skipped;
    } else {
      expected.insert(response);
    }
  }
  for (const Sequence& sequence :
       test::fetch(dataset.training(), 0, static_cast<std::int64_t>(summary.sequences_per_epoch))) {
    std::string text;
    for (const std::int32_t target : sequence.targets) {
      if (target == kEnd) {
        learned.insert(text);
        text.clear();
      } else if (target != kIgnored) {
        text += static_cast<char>(target);
      }
    }
    CHECK(text.empty());
  }
  CHECK(skipped > 0);
  CHECK(summary.examples_skipped == skipped);
  CHECK(summary.padding < 0.05);
  CHECK(learned == expected);
}

}  // namespace
}  // namespace braise::data
