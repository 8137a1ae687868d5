// SPDX-License-Identifier: Apache-2.0
// Rates of fetching batches from token files that are in the page cache, on one thread, beside a memcpy of as many
// bytes as a batch has; and of opening and verifying the files. Usage: data_bench FOLDER, where FOLDER has room for 300
// MB.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "stages/shared/data/dataset.h"
#include "stages/shared/data/prefetcher.h"
#include "stages/shared/io/digest.h"
#include "stages/shared/text/tokenizer.h"
#include "stages/tokenize/shards.h"
#include "stages/tokenize/token_file.h"

namespace {

using namespace braise;
namespace fs = std::filesystem;

constexpr std::uint64_t kTokens = 120'000'000;
constexpr std::size_t kShards = 4;
constexpr std::int64_t kBatch = 64;

const nlohmann::json kTokenizer = {{"kind", "bytes"}, {"end_of_document", true}};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Documents of 1 to 1,500 bytes.
fs::path write_tokens(const fs::path& folder) {
  const auto tokenizer = text::make_tokenizer(kTokenizer);
  std::vector<tokenize::ShardPart> parts;
  nlohmann::json shards = nlohmann::json::array();
  std::uint32_t random = 1;
  const std::string text(1500, 'x');
  for (std::size_t i = 0; i < kShards; ++i) {
    tokenize::ShardTokens tokens(*tokenizer, {}, 0);
    while (tokens.counts().train.tokens < kTokens / kShards) {
      random = random * 1664525 + 1013904223;
      tokens.add(0, std::string_view(text).substr(0, 1 + (random >> 8) % text.size()));
    }
    const fs::path path = folder / tokenize::shard_file(i);
    tokens.write(path);
    parts.push_back({path.filename(), tokens.counts()});
    const io::FileDigest digest = io::digest_file(path);
    shards.push_back({{"file", path.filename()},
                      {"bytes", digest.bytes},
                      {"sha256", digest.sha256},
                      {"train_tokens", tokens.counts().train.tokens},
                      {"validation_tokens", 0}});
  }
  tokenize::write_master_file(folder / "tokens.h5", *tokenizer, parts,
                              {{"config", {{"tokenizer", kTokenizer}}}, {"shards", shards}});
  return folder / "tokens.h5";
}

/// The best of several runs over 100 batches that were not fetched before, in million tokens a second.
void rates(const fs::path& master, data::Cutting cutting, bool masked, std::int64_t sequence) {
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  std::optional<data::Dataset> dataset;
  const double open_s = seconds([&] {
    dataset.emplace(data::DatasetSettings{1, sequence, cutting, masked},
                    std::vector<data::Source>{{data::TokenSource{master, ""}, 1}}, nullptr, arena);
  });
  constexpr std::int64_t kBatches = 100;
  constexpr int kRuns = 5;
  const auto order = [&](int run) {
    return [run](std::uint64_t i) -> std::optional<data::BatchRange> {
      return data::BatchRange{(static_cast<std::uint64_t>(run * kBatches) + i) * kBatch, kBatch};
    };
  };
  double fetch_s = 1e9, wait_s = 1e9, copy_s = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    data::Prefetcher direct(dataset->training(), order(run), 0);
    fetch_s = std::min(fetch_s, seconds([&] {
                         for (int i = 0; i < kBatches; ++i) direct.next();
                       }));
    const data::HostBatch batch = dataset->training().fetch(0, kBatch);
    std::vector<char> to(static_cast<std::size_t>(batch.memory.bytes()));
    copy_s = std::min(copy_s, seconds([&] {
                        for (int i = 0; i < kBatches; ++i) std::memcpy(to.data(), batch.memory.data(), to.size());
                      }));
    // With a thread, a caller that computes for a millisecond between batches waits for none.
    data::Prefetcher ahead(dataset->training(), order(run), 2);
    double waited = 0;
    for (int i = 0; i < kBatches; ++i) {
      waited += seconds([&] { ahead.next(); });
      const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
      while (std::chrono::steady_clock::now() < until) {
      }
    }
    wait_s = std::min(wait_s, waited);
  }
  const char* const names[] = {"windows", "documents", "random"};
  const double tokens = static_cast<double>(kBatches * kBatch * sequence) / 1e6;
  std::printf("%-9s %-8s T %5lld: open %6.3f s, %7.1f M tokens/s, memcpy %8.1f M tokens/s, wait %5.1f us a batch\n",
              names[static_cast<int>(cutting)], masked ? "masked" : "", static_cast<long long>(sequence), open_s,
              tokens / fetch_s, tokens / copy_s, wait_s / kBatches * 1e6);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: data_bench FOLDER\n");
    return 2;
  }
  const fs::path folder = fs::path(arguments[1]) / "data_bench";
  fs::create_directory(folder);
  const fs::path master = write_tokens(folder);
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kHost, ledger);
  const double verify_s = seconds([&] {
    data::Dataset({1, 1024, data::Cutting::kWindows, false}, {{data::TokenSource{master, ""}, 1}}, nullptr, arena,
                  {true, {}});
  });
  std::printf("open and verify: %.2f GB/s\n", 2 * static_cast<double>(kTokens) / verify_s / 1e9);
  for (const std::int64_t sequence : {64, 1024, 8192}) {
    for (const auto cutting : {data::Cutting::kWindows, data::Cutting::kDocuments, data::Cutting::kRandom}) {
      for (const bool masked : {false, true}) rates(master, cutting, masked, sequence);
    }
  }
  fs::remove_all(folder);
  return 0;
}
