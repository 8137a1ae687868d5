// SPDX-License-Identifier: Apache-2.0
#include "stages/api/descriptor.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace braise::tokenize {
const stages::StageDescriptor& descriptor();

namespace {

using nlohmann::json;

json config_with(const json& changes) {
  json config = {{"input", "/data/*.txt"}, {"format", "auto"}, {"documents", "file"}, {"shard_size", 1000}};
  config.merge_patch(changes);
  return config;
}

TEST_CASE("files from outside the run are told apart from those of it") {
  const auto patterns = [](const json& input) { return descriptor().inputs({{"input", input}}); };
  REQUIRE(patterns("/a/*.txt").size() == 1);
  CHECK(patterns("/a/*.txt")[0].pointer == "/input");
  CHECK(patterns("/a/*.txt")[0].pattern == "/a/*.txt");
  CHECK(patterns("${stages.other.text}").empty());
  const auto several = patterns({"/a", {{"path", "/b"}, {"sha256", "12"}}, "${run.dir}/x", {{"path", "/c"}}});
  REQUIRE(several.size() == 3);
  CHECK(several[1].pointer == "/input/1/path");
  CHECK(several[1].sha256 == "12");
  CHECK(several[2].pointer == "/input/3/path");
  CHECK(several[2].sha256.empty());
}

TEST_CASE("shards are counted where their number is known") {
  const auto steps = [](const json& changes, const std::vector<stages::InputFile>& inputs) {
    return descriptor().estimate(config_with(changes), {}, inputs, {}).steps;
  };
  const std::vector<stages::InputFile> files = {
      {"/a.txt", 2500, ""}, {"/b.txt", 600, ""}, {"/c.txt", 500, ""}, {"/d.txt", 1, ""}};
  CHECK(steps({{"documents", "file"}}, files) == 3);
  CHECK(steps({{"documents", "line"}}, files) == 4);
  CHECK(steps({{"format", "jsonl"}}, files) == 4);
  CHECK(steps({{"documents", "line"}}, {{"/a.txt.gz", 2500, ""}}) == 0);
  CHECK(steps({{"documents", "line"}}, {}) == 0);
}

TEST_CASE("memory is that of a shard and its largest document") {
  const auto memory = [](const json& changes, const std::vector<stages::InputFile>& inputs) {
    return descriptor().estimate(config_with(changes), {}, inputs, {}).memory_bytes_per_rank.at("workspace");
  };
  const std::uint64_t base = memory({{"documents", "line"}}, {{"/a", 100'000, ""}});
  CHECK(memory({{"documents", "line"}}, {{"/a", 100'000'000, ""}}) == base);
  CHECK(memory({{"shard_size", 2000}, {"documents", "line"}}, {{"/a", 100'000, ""}}) == base + 2000);
  CHECK(memory({{"documents", "line"}}, {{"/a", 10, ""}}) < base);
  CHECK(memory({{"documents", "file"}}, {{"/a", 100'000, ""}}) == base + 2 * 99'000 + 5 * 100'000);
  CHECK(memory({{"documents", "file"}}, {{"/a.gz", 25'000, ""}}) == base + 2 * 99'000 + 5 * 100'000);
  CHECK(memory({{"documents", "file"}}, {{"/a.jsonl.zst", 25'000, ""}}) == base);
}

TEST_CASE("a shard that does not fit the memory is a fault") {
  stages::Resources resources;
  resources.host_memory_bytes = 100 << 20;
  std::vector<std::string> faults;
  const auto check = [&](const json& config) {
    faults.clear();
    descriptor().check(
        {config, resources, {}, [&](std::string_view pointer, const std::string& problem, const std::string& remedy) {
           CHECK_FALSE(problem.empty());
           CHECK_FALSE(remedy.empty());
           faults.emplace_back(pointer);
         }});
    return faults;
  };
  CHECK(check(config_with({{"shard_size", 16 << 20}})).empty());
  CHECK(check(config_with({{"shard_size", 64 << 20}})) == std::vector<std::string>{"/shard_size"});
}

}  // namespace
}  // namespace braise::tokenize
