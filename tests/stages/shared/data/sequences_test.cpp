// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "stages/shared/data/dataset.h"
#include "tests/stages/shared/data/data_files.h"

namespace braise::data {
namespace {

using test::Sequence;
using test::Values;

/// A stream in which each token is its own place, in documents of mixed lengths; and a data set over it.
struct Numbered {
  explicit Numbered(std::vector<std::vector<std::size_t>> shard_lengths, DatasetSettings wanted,
                    std::vector<std::size_t> validation_lengths = {})
      : settings(wanted) {
    test::TokenContent content;
    std::uint32_t first = 0;
    for (const auto& lengths : shard_lengths) {
      content.train.push_back(test::numbered(lengths, first));
      for (const std::size_t length : lengths) {
        std::int32_t next = stream.empty() ? 0 : stream.back() + 1;
        for (std::size_t i = 0; i < length; ++i) {
          stream.push_back(next++);
          document.push_back(documents);
        }
        starts.push_back(stream.size() - length);
        ++documents;
      }
      first = static_cast<std::uint32_t>(stream.size());
    }
    content.validation.push_back(test::numbered(validation_lengths, 500000));
    content.end_of_document = kEnd;
    master = test::write_token_files(folder.path() / "tokens", content);
    open();
  }

  void open() { dataset.emplace(settings, std::vector<Source>{{TokenSource{master, ""}, 1}}, nullptr, memory.arena); }
  const BatchSource& training() const { return dataset->training(); }
  std::size_t length_of(int doc) const {
    return static_cast<std::size_t>(std::count(document.begin(), document.end(), doc));
  }

  static constexpr std::int32_t kEnd = (1 << 20) - 1;
  DatasetSettings settings;
  test::TemporaryFolder folder;
  test::HostMemory memory;
  std::filesystem::path master;
  Values stream;
  std::vector<int> document;  ///< of each token
  std::vector<std::size_t> starts;
  int documents = 0;
  std::optional<Dataset> dataset;
};

std::vector<std::size_t> mixed_lengths(std::size_t count, std::size_t most, std::uint32_t seed) {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525 + 1013904223;
    lengths.push_back(1 + (seed >> 8) % most);
  }
  return lengths;
}

/// What a window that begins at `begin` must be, position by position.
Sequence naive_window(const Numbered& data, std::size_t begin, std::size_t length, bool masked) {
  Sequence expected;
  for (std::size_t t = 0; t < length; ++t) {
    const std::size_t at = begin + t;
    expected.ids.push_back(data.stream[at]);
    const bool crosses = data.document[at] != data.document[at + 1];
    expected.targets.push_back(masked && crosses ? kIgnored : data.stream[at + 1]);
    if (!masked) continue;
    std::size_t first = t;
    while (first > 0 && data.document[begin + first - 1] == data.document[at]) --first;
    expected.document_starts.push_back(static_cast<std::int32_t>(first));
    expected.positions.push_back(static_cast<std::int32_t>(t - first));
  }
  return expected;
}

TEST_CASE("windows: each epoch has every window of its cut once, in another order and cut elsewhere") {
  for (const std::int64_t length : {1, 5, 16, 64}) {
    for (const bool masked : {false, true}) {
      const Numbered data({mixed_lengths(20, 12, 1), {}, mixed_lengths(15, 30, 2), {1}},
                          {7, length, Cutting::kWindows, masked});
      INFO("length " << length << ", masked " << masked);
      const auto t = static_cast<std::size_t>(length);
      const std::size_t per_epoch = data.stream.size() / t - 1;
      REQUIRE(data.training().summaries().at(0).sequences_per_epoch == per_epoch);
      CHECK(data.training().masked() == masked);
      std::set<std::size_t> offsets;
      std::vector<std::vector<std::size_t>> orders;
      for (std::size_t epoch = 0; epoch < 6; ++epoch) {
        const auto sequences = test::fetch(data.training(), epoch * per_epoch, static_cast<std::int64_t>(per_epoch));
        std::vector<std::size_t> begins;
        for (const Sequence& sequence : sequences) {
          begins.push_back(static_cast<std::size_t>(sequence.ids[0]));
          REQUIRE(begins.back() + t < data.stream.size());
          CHECK(sequence == naive_window(data, begins.back(), t, masked));
        }
        orders.push_back(begins);
        std::sort(begins.begin(), begins.end());
        for (std::size_t i = 1; i < begins.size(); ++i) CHECK(begins[i] == begins[i - 1] + t);
        // Nothing is left out but less than a window at the beginning, and less than two at the end.
        CHECK(begins.front() < t);
        CHECK(begins.back() + 3 * t > data.stream.size());
        offsets.insert(begins.front());
      }
      if (length > 1) CHECK(offsets.size() > 1);
      for (std::size_t epoch = 1; epoch < orders.size(); ++epoch) {
        CHECK(orders[epoch] != orders[0]);
        if (per_epoch > 4) CHECK(!std::is_sorted(orders[epoch].begin(), orders[epoch].end()));
      }
    }
  }
}

TEST_CASE("windows of a text little longer than one sequence") {
  for (const std::size_t tokens : {9, 10, 15, 16, 17, 24}) {
    const Numbered data({{tokens}}, {3, 8, Cutting::kWindows, false});
    const auto per_epoch = data.training().summaries().at(0).sequences_per_epoch;
    CHECK(per_epoch == (tokens < 24 ? 1 : 2));
    std::set<std::int32_t> begins;
    for (const Sequence& sequence : test::fetch(data.training(), 0, 400)) {
      begins.insert(sequence.ids[0] % 8);
      CHECK(sequence == naive_window(data, static_cast<std::size_t>(sequence.ids[0]), 8, false));
    }
    CHECK(begins.size() == std::min<std::size_t>(8, tokens - 8));
  }
  const std::string error = test::error_of([] { Numbered({{8}}, {3, 8, Cutting::kWindows, false}); });
  CHECK_THAT(error, Catch::Contains("tokens.h5: its 8 tokens for training make no sequence of 8"));
  CHECK_THAT(test::error_of([] { Numbered({{8}}, {3, 8, Cutting::kRandom, false}); }), Catch::Contains("shorter"));
}

TEST_CASE("random windows begin anywhere, equally likely, and never end") {
  for (const bool masked : {false, true}) {
    const Numbered data({mixed_lengths(8, 20, 3), {7, 1, 1}}, {11, 8, Cutting::kRandom, masked});
    const std::size_t places = data.stream.size() - 8;
    std::vector<int> counts(places);
    constexpr int kDraws = 20000;
    for (const Sequence& sequence : test::fetch(data.training(), 0, kDraws)) {
      const auto begin = static_cast<std::size_t>(sequence.ids[0]);
      REQUIRE(begin < places);
      ++counts[begin];
      if (sequence != naive_window(data, begin, 8, masked)) FAIL("window at " << begin);
    }
    const double expected = static_cast<double>(kDraws) / static_cast<double>(places);
    double chi_square = 0;
    for (const int count : counts) chi_square += (count - expected) * (count - expected) / expected;
    CHECK(chi_square < static_cast<double>(places) + 6 * std::sqrt(2 * static_cast<double>(places)));
    CHECK(data.training().summaries().at(0).sequences_per_epoch == 0);
    CHECK(test::fetch(data.training(), std::uint64_t{1} << 61, 2).size() == 2);
    CHECK_THAT(test::error_of([&] { data.training().sequences_for_epochs(1); }), Catch::Contains("no epochs"));
  }
}

/// Checks a packed sequence position by position, and notes which tokens' successors it taught.
void check_packed(const Numbered& data, const Sequence& sequence, bool masked, std::vector<int>& taught,
                  std::vector<int>& seen, std::map<int, int>& pieces_of) {
  const std::size_t length = sequence.ids.size();
  std::size_t used = length;
  while (used > 0 && sequence.ids[used - 1] == Numbered::kEnd) --used;
  REQUIRE(used > 0);
  std::size_t first = 0;
  for (std::size_t t = 0; t < length; ++t) {
    if (t >= used) {  // padding
      CHECK(sequence.targets[t] == kIgnored);
      if (!masked) continue;
      CHECK(sequence.document_starts[t] == static_cast<std::int32_t>(used));
      CHECK(sequence.positions[t] == static_cast<std::int32_t>(t - used));
      continue;
    }
    const auto token = static_cast<std::size_t>(sequence.ids[t]);
    REQUIRE(token < data.stream.size());
    ++seen[token];
    const bool begins =
        t == 0 || sequence.ids[t] != sequence.ids[t - 1] + 1 || data.document[token] != data.document[token - 1];
    if (begins) {
      first = t;
      ++pieces_of[data.document[token]];
      // A document begins at its beginning, or where a sequence's length before it was cut.
      const std::size_t from = token - data.starts[static_cast<std::size_t>(data.document[token])];
      CHECK(from % length == 0);
    }
    const bool document_goes_on = token + 1 < data.stream.size() && data.document[token + 1] == data.document[token];
    std::int32_t target = kIgnored;
    if (document_goes_on) {
      target = static_cast<std::int32_t>(token + 1);
      ++taught[token];
    } else if (!masked && t + 1 < used) {
      target = sequence.ids[t + 1];
    }
    CHECK(sequence.targets[t] == target);
    if (!masked) continue;
    CHECK(document_goes_on);
    CHECK(sequence.document_starts[t] == static_cast<std::int32_t>(first));
    CHECK(sequence.positions[t] == static_cast<std::int32_t>(t - first));
  }
}

TEST_CASE("documents: each epoch teaches every token of every document once, whole unless it is too long") {
  for (const std::int64_t length : {1, 4, 16, 40}) {
    for (const bool masked : {false, true}) {
      const Numbered data({mixed_lengths(60, 20, 4), {1, 2, 150, 41, 40, 16, 17}, {}, mixed_lengths(30, 45, 5)},
                          {7, length, Cutting::kDocuments, masked});
      INFO("length " << length << ", masked " << masked);
      const auto t = static_cast<std::size_t>(length);
      const SourceSummary summary = data.training().summaries().at(0);
      const std::uint64_t per_epoch = summary.sequences_per_epoch;
      std::vector<std::vector<Sequence>> epochs;
      for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
        std::vector<int> taught(data.stream.size()), seen(data.stream.size());
        std::map<int, int> pieces;
        epochs.push_back(test::fetch(data.training(), epoch * per_epoch, static_cast<std::int64_t>(per_epoch)));
        for (const Sequence& sequence : epochs.back()) check_packed(data, sequence, masked, taught, seen, pieces);
        std::size_t used = 0;
        for (std::size_t i = 0; i < data.stream.size(); ++i) {
          const bool last = i + 1 == data.stream.size() || data.document[i + 1] != data.document[i];
          if (taught[i] != (last ? 0 : 1)) FAIL("token " << i << " was taught " << taught[i] << " times");
          if (seen[i] != (last && masked ? 0 : 1)) FAIL("token " << i << " came " << seen[i] << " times");
          used += static_cast<std::size_t>(seen[i]);
        }
        for (int doc = 0; doc < data.documents; ++doc) {
          const std::size_t positions = data.length_of(doc) - (masked ? 1 : 0);
          CHECK(static_cast<std::size_t>(pieces[doc]) == (positions + t - 1) / t);
        }
        const double padding = 1 - static_cast<double>(used) / static_cast<double>(per_epoch * t);
        CHECK(summary.padding == Approx(padding).margin(1e-12));
      }
      CHECK(epochs[0] != epochs[1]);
      CHECK(epochs[1] != epochs[2]);
    }
  }
}

TEST_CASE("documents that teach nothing") {
  CHECK_THAT(test::error_of([] {
               Numbered({{1, 1, 1}}, {3, 8, Cutting::kDocuments, true});
             }),
             Catch::Contains("tokens.h5: none of its 3 documents has two tokens"));
}

TEST_CASE("a sequence does not depend on what is fetched with it, before it, by whom, or on a fresh start") {
  for (const Cutting cutting : {Cutting::kWindows, Cutting::kDocuments, Cutting::kRandom}) {
    Numbered data({mixed_lengths(40, 25, 6), mixed_lengths(40, 25, 7)}, {21, 12, cutting, true});
    constexpr std::int64_t kAll = 300;  // some epochs
    const auto whole = test::fetch(data.training(), 0, kAll);
    data.open();
    for (const std::int64_t piece : {1, 7, 32, 100}) {
      for (std::int64_t first = kAll / piece * piece; first >= 0; first -= piece) {
        const std::int64_t count = std::min(piece, kAll - first);
        if (count == 0) continue;
        const HostBatch batch = data.training().fetch(static_cast<std::uint64_t>(first), count);
        const auto part = test::sequences_of(batch);
        CHECK(std::equal(part.begin(), part.end(), whole.begin() + first));
        CHECK(batch.first_sequence == static_cast<std::uint64_t>(first));
        CHECK(batch.target_count ==
              std::accumulate(batch.target_counts.begin(), batch.target_counts.end(), std::int64_t{0}));
        for (std::size_t b = 0; b < part.size(); ++b) {
          const auto ignored = std::count(part[b].targets.begin(), part[b].targets.end(), kIgnored);
          CHECK(batch.target_counts[b] == 12 - ignored);
        }
      }
    }
    std::vector<std::thread> threads;
    std::vector<int> wrong(4);
    for (std::size_t worker = 0; worker < 4; ++worker) {
      threads.emplace_back([&, worker] {
        for (std::int64_t n = 0; n < kAll; ++n)
          wrong[worker] += test::fetch(data.training(), static_cast<std::uint64_t>(n), 1).front() !=
                                   whole[static_cast<std::size_t>(n)]
                               ? 1
                               : 0;
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::vector<int>(4));

    // Another seed gives other sequences.
    data.settings.seed = 22;
    data.open();
    CHECK(test::fetch(data.training(), 0, 20) != std::vector<Sequence>(whole.begin(), whole.begin() + 20));
  }
}

TEST_CASE("far on in a run a sequence is found as quickly, and is the same") {
  const Numbered data({mixed_lengths(40, 25, 6)}, {21, 12, Cutting::kWindows, false});
  const std::uint64_t per_epoch = data.training().summaries().at(0).sequences_per_epoch;
  const std::uint64_t epoch = (std::uint64_t{1} << 61) / per_epoch;
  std::set<std::int32_t> begins;
  for (const Sequence& sequence : test::fetch(data.training(), epoch * per_epoch, static_cast<std::int64_t>(per_epoch)))
    begins.insert(sequence.ids[0]);
  CHECK(begins.size() == per_epoch);
  CHECK(data.training().origin(epoch * per_epoch + 1).epoch == epoch);
  CHECK(data.training().origin(epoch * per_epoch + 1).index == 1);
}

TEST_CASE("what a sequence is, is part of the reproducible result") {
  // Computed apart from this code, in Python.
  const std::map<Cutting, Values> expected = {{Cutting::kWindows, {353, 897, 785, 422, 678, 274}},
                                              {Cutting::kRandom, {187, 592, 141, 407, 544, 164}}};
  for (const auto& [cutting, begins] : expected) {
    const Numbered data({{1000}}, {1337, 16, cutting, false});
    Values found;
    for (const std::uint64_t n : {0, 1, 2, 61, 62, 6100}) found.push_back(test::fetch(data.training(), n, 1)[0].ids[0]);
    CHECK(found == begins);
  }
}

TEST_CASE("validation: every token once, in sequences that stay the same whatever the seed") {
  const std::vector<std::size_t> lengths = mixed_lengths(30, 25, 8);
  const std::size_t tokens = std::accumulate(lengths.begin(), lengths.end(), std::size_t{0});
  for (const Cutting cutting : {Cutting::kWindows, Cutting::kDocuments, Cutting::kRandom}) {
    for (const bool masked : {false, true}) {
      Numbered data({{100}}, {1, 12, cutting, masked}, lengths);
      REQUIRE(data.dataset->validation() != nullptr);
      const BatchSource& validation = *data.dataset->validation();
      const std::uint64_t all = validation.sequences();
      const auto first = test::fetch(validation, 0, static_cast<std::int64_t>(all));
      std::map<std::int32_t, int> targets;
      std::int64_t ignored = 0;
      for (const Sequence& sequence : first) {
        for (std::size_t t = 0; t < sequence.ids.size(); ++t) {
          if (sequence.targets[t] == kIgnored) {
            ++ignored;
            continue;
          }
          if (masked) CHECK(sequence.targets[t] == sequence.ids[t] + 1);
          ++targets[sequence.targets[t]];
        }
      }
      if (cutting != Cutting::kDocuments) {
        CHECK(all == (tokens - 1 + 11) / 12);
        CHECK(targets.size() == tokens - 1 - (masked ? lengths.size() - 1 : 0));
      } else if (masked) {
        CHECK(targets.size() == tokens - lengths.size());
      }
      if (masked || cutting != Cutting::kDocuments) {
        for (const auto& [token, count] : targets) CHECK(count == 1);
      }
      CHECK(targets.begin()->first >= 500000);
      CHECK_THAT(test::error_of([&] { validation.fetch(all - 1, 2); }), Catch::Contains("but there are"));
      data.settings.seed = 99;
      data.open();
      CHECK(test::fetch(*data.dataset->validation(), 0, static_cast<std::int64_t>(all)) == first);
    }
  }
}

TEST_CASE("without text for validation there is no validation") {
  CHECK(Numbered({{100}}, {1, 12, Cutting::kWindows, false}).dataset->validation() == nullptr);
  CHECK(Numbered({{100}}, {1, 12, Cutting::kWindows, false}, {1}).dataset->validation() == nullptr);
  CHECK(Numbered({{100}}, {1, 12, Cutting::kWindows, false}, {2}).dataset->validation()->sequences() == 1);
}

/// Three token files, told apart by the ranges of their tokens.
struct Mixed {
  explicit Mixed(DatasetSettings settings, const std::vector<double>& weights) {
    for (std::size_t k = 0; k < weights.size(); ++k) {
      test::TokenContent content;
      const auto first = static_cast<std::uint32_t>(100000 * k);
      content.train.push_back(test::numbered(mixed_lengths(20 * (k + 1), 25, 9), first));
      content.validation.push_back(test::numbered(mixed_lengths(5 * (k + 1), 25, 9), first));
      sources.push_back(
          {TokenSource{test::write_token_files(folder.path() / std::to_string(k), content), ""}, weights[k]});
    }
    dataset.emplace(settings, sources, nullptr, memory.arena);
  }

  test::TemporaryFolder folder;
  test::HostMemory memory;
  std::vector<Source> sources;
  std::optional<Dataset> dataset;
};

TEST_CASE("several sources: each has its share and epochs of its own") {
  for (const Cutting cutting : {Cutting::kWindows, Cutting::kDocuments}) {
    const Mixed data({5, 8, cutting, true}, {0.5, 0.3, 0.2});
    const BatchSource& training = data.dataset->training();
    constexpr std::int64_t kCount = 1000;
    std::vector<std::int64_t> counts(3);
    // The sequences of each source in order are those it gives alone, as its place among the sources has it.
    std::vector<std::map<std::uint64_t, std::set<Values>>> epochs(3);
    const auto sequences = test::fetch(training, 0, kCount);
    for (std::int64_t n = 0; n < kCount; ++n) {
      const BatchSource::Origin origin = training.origin(static_cast<std::uint64_t>(n));
      const Sequence& sequence = sequences[static_cast<std::size_t>(n)];
      CHECK(static_cast<std::size_t>(sequence.ids[0] / 100000) == origin.source);
      ++counts[origin.source];
      const bool is_new = epochs[origin.source][origin.epoch].insert(sequence.ids).second;
      CHECK(is_new);
    }
    CHECK(std::abs(counts[0] - 500) < 3);
    CHECK(std::abs(counts[1] - 300) < 3);
    CHECK(std::abs(counts[2] - 200) < 3);
    const std::vector<SourceSummary> summaries = training.summaries();
    for (std::size_t k = 0; k < 3; ++k) {
      REQUIRE(epochs[k].size() > 1);
      for (const auto& [epoch, seen] : epochs[k]) {
        if (epoch + 1 < epochs[k].size()) CHECK(seen.size() == summaries[k].sequences_per_epoch);
      }
    }
    // An epoch of the whole: each source has been gone through, and one sequence less would not do.
    for (const double wanted : {0.5, 1.0, 2.0}) {
      const std::uint64_t n = training.sequences_for_epochs(wanted);
      const auto gone_through = [&](std::uint64_t length) {
        std::vector<std::uint64_t> seen(3);
        for (std::uint64_t i = 0; i < length; ++i) ++seen[training.origin(i).source];
        bool all = true;
        for (std::size_t k = 0; k < 3; ++k)
          all = all && static_cast<double>(seen[k]) >= wanted * static_cast<double>(summaries[k].sequences_per_epoch);
        return all;
      };
      CHECK(gone_through(n));
      CHECK(!gone_through(n - 1));
    }
    CHECK(training.sequences_for_epochs(0) == 0);

    // Validation: all of each source, mixed evenly.
    const BatchSource& validation = *data.dataset->validation();
    std::vector<std::uint64_t> kept(3);
    std::uint64_t first_half = 0;
    for (std::uint64_t n = 0; n < validation.sequences(); ++n) {
      const BatchSource::Origin origin = validation.origin(n);
      CHECK(origin.epoch == 0);
      CHECK(origin.index == kept[origin.source]);
      ++kept[origin.source];
      if (origin.source == 2 && n < validation.sequences() / 2) ++first_half;
    }
    for (std::size_t k = 0; k < 3; ++k) CHECK(kept[k] == validation.summaries()[k].sequences_per_epoch);
    CHECK(std::llabs(static_cast<long long>(2 * first_half) - static_cast<long long>(kept[2])) <= 4);
  }
}

TEST_CASE("weights must be positive, and tokenizers one") {
  CHECK_THAT(test::error_of([] {
               Mixed({5, 8, Cutting::kWindows, true}, {1, 0});
             }),
             Catch::Contains("1/tokens.h5: its weight is 0.0"));
  CHECK_THAT(test::error_of([] { Mixed({5, 8, Cutting::kWindows, true}, {-1}); }), Catch::Contains("weight"));

  Mixed data({5, 8, Cutting::kWindows, true}, {1});
  test::TokenContent other;
  other.train.push_back(test::numbered({100}));
  other.tokenizer["end_of_document"] = false;
  data.sources.push_back({TokenSource{test::write_token_files(data.folder.path() / "other", other), ""}, 1});
  const auto open = [&](const nlohmann::json& tokenizer) {
    Dataset({5, 8, Cutting::kWindows, true}, data.sources, tokenizer, data.memory.arena);
  };
  CHECK_THAT(test::error_of([&] { open(nullptr); }),
             Catch::Contains("other/tokens.h5: its tokens are of the tokenizer"));
  CHECK_THAT(test::error_of([&] {
               open({{"kind", "bytes"}, {"end_of_document", true}});
             }),
             Catch::Contains("those of the job"));
}

TEST_CASE("a place in the data is refused by other data, saying what differs") {
  test::HostMemory memory;
  const Mixed data({5, 8, Cutting::kWindows, true}, {1, 2});
  const Position position = data.dataset->training().position(123);
  CHECK(position.next_sequence == 123);
  CHECK(data.dataset->training().digest() == io::sha256(position.identity));
  CHECK_NOTHROW(data.dataset->training().require_same(position));

  // A digest that was noted before.
  const auto* first = std::get_if<TokenSource>(&data.sources[0].data);
  const auto with_digest = [&](const std::string& digest) {
    Dataset({5, 8, Cutting::kWindows, true}, {{TokenSource{first->master, digest}, 1}}, nullptr, memory.arena);
  };
  CHECK_NOTHROW(with_digest(io::digest_file(first->master).sha256));
  CHECK_THAT(test::error_of([&] { with_digest(std::string(64, '0')); }), Catch::Contains("0/tokens.h5: has SHA-256"));

  // Files that were moved are the same data.
  const std::filesystem::path moved = data.folder.path() / "moved";
  std::filesystem::copy(data.folder.path() / "1", moved);
  std::vector<Source> sources = data.sources;
  sources[1].data = TokenSource{moved / "tokens.h5", ""};
  CHECK_NOTHROW(
      Dataset({5, 8, Cutting::kWindows, true}, sources, nullptr, memory.arena).training().require_same(position));

  const auto refusal = [&](const DatasetSettings& settings, const std::vector<Source>& from) {
    const Dataset dataset(settings, from, nullptr, memory.arena);
    CHECK(dataset.training().digest() != data.dataset->training().digest());
    return test::error_of([&] { dataset.training().require_same(position); });
  };
  const DatasetSettings same{5, 8, Cutting::kWindows, true};
  CHECK_THAT(refusal({6, 8, Cutting::kWindows, true}, sources), Catch::Contains("(/seed was 5 and is now 6)"));
  CHECK_THAT(refusal({5, 9, Cutting::kWindows, true}, sources), Catch::Contains("/sequence was 8 and is now 9"));
  CHECK_THAT(refusal({5, 8, Cutting::kRandom, true}, sources), Catch::Contains("\"windows\" and is now \"random\""));
  CHECK_THAT(refusal({5, 8, Cutting::kWindows, false}, sources), Catch::Contains("/document_mask"));
  sources[1].weight = 3;
  CHECK_THAT(refusal(same, sources), Catch::Contains("(/sources/1/weight was 2.0 and is now 3.0)"));
  sources = {data.sources[1], data.sources[0]};
  CHECK_THAT(refusal(same, sources), Catch::Contains("/sources/0/sha256"));
  sources = {data.sources[0]};
  CHECK_THAT(refusal(same, sources), Catch::Contains("/sources/1 was {"));
  sources = {data.sources[0], data.sources[1], data.sources[0]};
  CHECK_THAT(refusal(same, sources), Catch::Contains("was none and is now"));
  CHECK_THAT(test::error_of([&] {
               data.dataset->training().require_same({1, "{"});
             }),
             Catch::Contains("cannot be read"));
  CHECK_THROWS_AS(data.dataset->training().require_same(data.dataset->validation()->position(1)), core::Error);
}

TEST_CASE("batches are within the memory budget or an error") {
  const Numbered data({{1000}}, {5, 64, Cutting::kWindows, true});
  core::MemoryLedger ledger(core::kUnlimited, 100 << 10);
  core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  const Dataset dataset(data.settings, {{TokenSource{data.master, ""}, 1}}, nullptr, arena);
  CHECK(dataset.training().fetch(0, 10).memory.bytes() == 10 * 64 * 4 * 4);
  CHECK_THAT(test::error_of([&] { dataset.training().fetch(0, 1000); }), Catch::Contains("data"));
  CHECK(ledger.total_bytes(core::Space::kHost) == 0);
}

}  // namespace
}  // namespace braise::data
