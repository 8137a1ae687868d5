// SPDX-License-Identifier: Apache-2.0
#include "stages/shared/model/kv_cache.h"

#include <catch2/catch.hpp>
#include <map>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/random.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/generation_memory.h"
#include "tests/stages/shared/model/small_models.h"
#include "tests/support/tensors.h"

using namespace braise;
using namespace braise::core;
using namespace braise::test;
using Catch::Contains;
using model::Config;
using model::Decoder;
using model::Extension;
using model::KvCache;

namespace {

/// The bytes of the logits that follow each of `ids`, from one pass over all of them.
std::vector<std::string> whole_pass(Bench& bench, Decoder& decoder, const std::vector<std::int32_t>& ids) {
  const std::int64_t length = std::ssize(ids);
  const TestTensor tokens(Dtype::kInt32, Shape{1, length}, std::vector<double>(ids.begin(), ids.end()));
  const TestTensor logits(Dtype::kFloat32, Shape{1, length, decoder.config().vocabulary});
  model::Batch batch;
  batch.ids = tokens.view();
  decoder.logits(logits.view(), batch);
  const std::string all = logits.bytes();
  const std::size_t row = all.size() / ids.size();
  std::vector<std::string> rows;
  for (std::size_t i = 0; i < ids.size(); ++i) rows.push_back(all.substr(i * row, row));
  CHECK(bench.ledger().current_bytes(Space::kDevice, Category::kActivations) == 0);
  return rows;
}

/// Sequences with the bytes of the logits after each token, and a cache that is filled from them.
struct Trial {
  Trial(const Config& config, Dtype dtype, std::vector<std::int64_t> lengths, std::int64_t positions)
      : decoder(bench.stream(), config, {.compute = dtype, .gradients = false, .checkpointing = {}}),
        cache(bench.arena(), config, dtype, std::ssize(lengths), positions) {
    decoder.initialise(11);
    const RandomStream random(5, Purpose::kData);
    std::uint64_t drawn = 0;
    for (const std::int64_t length : lengths) {
      std::vector<std::int32_t> ids;
      for (std::int64_t i = 0; i < length; ++i) {
        ids.push_back(static_cast<std::int32_t>(random.word(drawn++) % static_cast<std::uint32_t>(config.vocabulary)));
      }
      sequences.push_back(ids);
      wanted.push_back(whole_pass(bench, decoder, ids));
    }
  }

  /// Extends sequences by what comes next in them, and compares.
  void extend(const std::vector<Extension>& extensions) {
    std::vector<double> ids;
    for (const auto& [sequence, tokens] : extensions) {
      const auto from = sequences[static_cast<std::size_t>(sequence)].begin() + cache.length(sequence);
      ids.insert(ids.end(), from, from + tokens);
    }
    const TestTensor tokens(Dtype::kInt32, Shape{std::ssize(ids)}, ids);
    const TestTensor logits(Dtype::kFloat32, Shape{std::ssize(extensions), decoder.config().vocabulary});
    decoder.extend(logits.view(), tokens.view(), cache, extensions);
    CHECK(logits.intact());
    for (std::size_t i = 0; i < extensions.size(); ++i) {
      const auto sequence = static_cast<std::size_t>(extensions[i].sequence);
      const auto last = static_cast<std::size_t>(cache.length(extensions[i].sequence)) - 1;
      const std::string all = logits.bytes();
      const std::size_t row = all.size() / extensions.size();
      INFO("sequence " << sequence << ", position " << last);
      CHECK(all.substr(i * row, row) == wanted[sequence][last]);
    }
  }
  std::int64_t left(std::int64_t sequence) const {
    return std::ssize(sequences[static_cast<std::size_t>(sequence)]) - cache.length(sequence);
  }

  Bench bench;
  Decoder decoder;
  KvCache cache;
  std::vector<std::vector<std::int32_t>> sequences;
  std::vector<std::vector<std::string>> wanted;
};

std::vector<Config> small_models() {
  Config grouped = small_llama();
  grouped.kv_heads = 1;
  Config scaled = small_llama();
  scaled.rope->scaling = attention::DynamicNtkScaling{2, 300};
  return {small_gpt2(), small_llama(), small_everything(), small_gemma2(), small_gemma3(), small_neox(),
          grouped,      scaled};
}

}  // namespace

TEST_CASE("sequences that grow in a cache have the bits of whole passes") {
  for (const Config& config : small_models()) {
    const std::int64_t positions = config.rope ? 300 : config.positions;  // more than one tile of keys
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      INFO(config.model_type << " heads " << config.kv_heads << " " << name(dtype));
      Trial trial(config, dtype, {positions, positions - 3, 7, positions / 2}, positions);
      // Prompts of different lengths in one pass, one of them in two parts.
      trial.extend({{2, 1}});
      trial.extend({{3, positions / 2 - 2}, {0, 1}, {1, positions / 3}});
      trial.extend({{0, positions / 2}});
      // Then some token by token, together with others or alone, in changing company and order.
      for (int i = 0; i < 3; ++i) {
        trial.extend({{1, 1}, {2, 1}});
        trial.extend({{0, 1}});
      }
      trial.extend({{0, 2}, {1, 1}, {3, 2}, {2, 1}});
      for (int i = 0; i < 2; ++i) trial.extend({{1, 1}, {0, 1}});
      // Up to the last position.
      trial.extend({{0, trial.left(0) - 1}});
      trial.extend({{0, 1}, {1, trial.left(1)}});
      CHECK(trial.cache.length(0) == positions);
      // Another begins in the place of one that ended.
      trial.cache.clear(0);
      trial.extend({{0, 3}});
      trial.extend({{0, 1}});
    }
  }
}

TEST_CASE("threads change nothing in cached passes") {
  with_threads([](int) {
    Trial trial(small_everything(), Dtype::kBfloat16, {40, 30, 20}, 40);
    trial.extend({{0, 20}, {1, 10}, {2, 5}});
    for (int i = 0; i < 6; ++i) trial.extend({{0, 1}, {1, 1}, {2, 1}});
  });
}

TEST_CASE("a cache is memory of its own category, as much as it says") {
  Bench bench;
  const Config config = small_llama();
  const KvCache cache(bench.arena(), config, Dtype::kBfloat16, 3, 64);
  CHECK(model::kv_cache_bytes(config, Dtype::kBfloat16, 3, 64) == 2 * 2 * 3 * 3 * 2 * 64 * 6);
  CHECK(bench.ledger().current_bytes(Space::kDevice, Category::kKv) ==
        model::kv_cache_bytes(config, Dtype::kBfloat16, 3, 64));
}

TEST_CASE("passes that do not fit the cache are refused, and change nothing") {
  Trial trial(small_llama(), Dtype::kFloat32, {12, 12}, 12);
  trial.extend({{0, 4}});
  const auto refused = [&](const std::vector<Extension>& extensions, std::int64_t tokens) {
    const TestTensor ids(Dtype::kInt32, Shape{tokens}, std::vector<double>(static_cast<std::size_t>(tokens), 1.0));
    const TestTensor logits(Dtype::kFloat32, Shape{std::ssize(extensions), trial.decoder.config().vocabulary});
    trial.decoder.extend(logits.view(), ids.view(), trial.cache, extensions);
  };
  CHECK_THROWS_WITH(refused({{2, 1}}, 1), Contains("of 2 sequences has no sequence 2"));
  CHECK_THROWS_WITH(refused({{-1, 1}}, 1), Contains("no sequence -1"));
  CHECK_THROWS_WITH(refused({{0, 9}}, 9), Contains("has 4 tokens and room for 8 more, not for 9"));
  CHECK_THROWS_WITH(refused({{1, 1}, {1, 1}}, 2), Contains("sequence 1 of a KV cache is extended twice"));
  CHECK_THROWS_WITH(refused({{1, 0}}, 0), Contains("by no token"));
  CHECK_THROWS_WITH(refused({{1, 2}}, 3), Contains("ids is"));
  CHECK_THROWS_WITH(trial.cache.clear(5), Contains("no sequence 5"));
  KvCache other(trial.bench.arena(), trial.decoder.config(), Dtype::kBfloat16, 1, 12);
  const TestTensor id(Dtype::kInt32, Shape{1}, std::vector<double>{1});
  const TestTensor row(Dtype::kFloat32, Shape{1, 29});
  CHECK_THROWS_WITH(trial.decoder.extend(row.view(), id.view(), other, std::vector<Extension>{{0, 1}}),
                    Contains("not of this model and dtype"));
  // An id that the model lacks is seen late; the pass then leaves the lengths, and the decoder, as they were.
  const TestTensor bad(Dtype::kInt32, Shape{1}, std::vector<double>{29});
  CHECK_THROWS_WITH(trial.decoder.extend(row.view(), bad.view(), trial.cache, std::vector<Extension>{{0, 1}}),
                    Contains("is 29, not in [0, 29)"));
  CHECK(trial.cache.length(0) == 4);
  CHECK(whole_pass(trial.bench, trial.decoder, trial.sequences[0]) == trial.wanted[0]);
  trial.extend({{0, 1}, {1, 12}});

  Config scaled = small_llama();
  scaled.rope->scaling = attention::DynamicNtkScaling{2, 30};
  Bench bench;
  Decoder decoder(bench.stream(), scaled, {.compute = Dtype::kFloat32, .gradients = false, .checkpointing = {}});
  decoder.initialise(1);
  KvCache large(bench.arena(), scaled, Dtype::kFloat32, 1, 31);
  CHECK_THROWS_WITH(decoder.extend(row.view(), id.view(), large, std::vector<Extension>{{0, 1}}),
                    Contains("grows beyond 30 positions, which a cache cannot; it has room for 31"));
}
