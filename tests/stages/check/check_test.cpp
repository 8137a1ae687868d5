// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <functional>

#include "kernels/comm/transport.h"
#include "kernels/core/error.h"
#include "stages/check/exchange.h"
#include "stages/check/memory.h"
#include "stages/check/work.h"
#include "stages/shared/io/file.h"
#include "stages/shared/machine/gemm.h"
#include "tests/stages/fake_context.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::check {
namespace {

using Catch::Contains;

/// Rank 1 of 2 that talks to itself, so that what rank 0 sent never comes.
class LyingCommunicator final : public comm::Communicator {
 public:
  int rank() const override { return 1; }
  int size() const override { return 2; }
  void barrier() override {}
  void all_gather(std::span<const std::byte>, std::span<std::byte>) override {}
  std::vector<std::string> all_gather(const std::string& mine) override { return {mine, mine}; }
  std::string broadcast(const std::string& bytes, int) override { return bytes; }
  std::int64_t all_max(std::int64_t value) override { return value; }
  void all_to_all(std::span<const std::byte> send, std::span<std::byte> receive, std::size_t) override {
    std::copy(send.begin(), send.end(), receive.begin());
  }
  std::unique_ptr<Communicator> split(std::span<const int>) override { return nullptr; }
  std::unique_ptr<comm::Transport> transport() override { return nullptr; }
};

TEST_CASE("an exchange that goes wrong is told with sender, receiver and byte") {
  const auto single = comm::single();
  for (const std::size_t bytes : {1, 7, 4096}) CHECK_NOTHROW(Exchange(*single, bytes).verify(3));
  LyingCommunicator lying;
  Exchange exchange(lying, 64);
  CHECK_THROWS_WITH(exchange.verify(0), Contains("what rank 0 sent to rank 1 arrived wrong at byte 0 of 64"));
}

TEST_CASE("memory is read and copied whole") {
  MemoryArray array(1 << 20);
  CHECK(array.read() == 1 << 20);
  CHECK(array.copy() == 1 << 20);
  CHECK(MemoryArray((1 << 20) + 77).read() <= (1 << 20) + 77);
}

bool is_a_machine(const nlohmann::json& json) {
  return test::schema_faults(json, "machine.schema.json").empty();
}

const nlohmann::json kConfig = {{"duration", 0.05}, {"message_size", 4096}, {"memory_size", 1 << 20},
                                {"gemm_size", 64},  {"scratch_size", 4096}, {"free_memory", 0},
                                {"free_disk", 0}};

TEST_CASE("one rank measures its machine, as the schema says") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = kConfig;
  stages::Outputs outputs;
  REQUIRE(run(context, outputs) == stages::Ending::completed);
  const nlohmann::json machine = nlohmann::json::parse(io::read_file(context.attempt_dir_ / "artifacts/machine.json"));
  CHECK(is_a_machine(machine));
  CHECK_FALSE(is_a_machine(nlohmann::json::object()));
  CHECK(machine.at("ranks").size() == 1);
  CHECK(machine.at("network").at("barrier_s").is_null());
  CHECK(machine.at("ranks").at(0).at("gemm_bf16_flops").is_null() ==
        !machine::Gemm::supports(machine::Gemm::Precision::bf16));
  CHECK(outputs.at("machine").files.at(0).path == "artifacts/machine.json");
  CHECK(context.metrics_.back().at("step") == context.metrics_.back().at("steps"));
}

TEST_CASE("a node without the memory, the room or the scratch folder is refused by name") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = kConfig;
  stages::Outputs outputs;
  SECTION("memory") {
    context.job_.config["free_memory"] = std::uint64_t{1} << 60;
    CHECK_THROWS_WITH(run(context, outputs),
                      Contains("bytes of main memory available, where its 1 workers need 11529"));
  }
  SECTION("room") {
    context.job_.config["free_disk"] = std::uint64_t{1} << 60;
    CHECK_THROWS_WITH(run(context, outputs), Contains("bytes free in " + context.scratch_dir().string()));
  }
  SECTION("a folder that is not there") {
    context.scratch_dir_ = folder.path() / "absent";
    CHECK_THROWS_WITH(run(context, outputs), Contains("cannot look at the disk of " + context.scratch_dir_.string()));
  }
  SECTION("a disk that is full") {
    const test::SmallDisk disk("1m");
    if (!disk.mounted()) return;
    context.scratch_dir_ = disk.path();
    context.job_.config["scratch_size"] = 2 << 20;
    CHECK_THROWS_WITH(run(context, outputs), Contains("bytes free in "));
  }
  CHECK(outputs.empty());
}

TEST_CASE("a measurement is stopped when asked for") {
  const test::TemporaryFolder folder;
  test::FakeContext context(folder.path());
  context.job_.config = kConfig;
  context.job_.config["duration"] = 3600;
  context.request_ = stages::Request::stop;
  stages::Outputs outputs;
  CHECK(run(context, outputs) == stages::Ending::stopped);
  CHECK(outputs.empty());
}

}  // namespace
}  // namespace braise::check
