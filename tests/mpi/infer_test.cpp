// SPDX-License-Identifier: Apache-2.0
// Generation under mpirun: the same completions on any number of ranks, and after an attempt that was killed.
#include <signal.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "stages/shared/io/digest.h"
#include "stages/shared/io/file.h"
#include "stages/shared/io/json_lines.h"
#include "tests/mpi/mpirun.h"
#include "tests/stages/infer/config.h"
#include "tests/stages/infer/tiny_model.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using nlohmann::json;
using test::Finished;
using test::HandMadeRun;

/// A model in a folder, and a job that continues prompts with it.
struct Place {
  Place() { test::write_hugging_face(folder.path() / "model", test::byte_model(), 6); }

  std::vector<fs::path> inputs() const {
    return {folder.path() / "model/config.json", folder.path() / "model/model.safetensors"};
  }
  json config(int prompts, const json& changes = json::object()) const {
    json config = test::infer_config({{"model", folder.path() / "model"}, {"prompts", json::array()}});
    for (int i = 0; i < prompts; ++i) config["prompts"].push_back("Prompt " + std::to_string(i * i) + ":");
    config.merge_patch(changes);
    return config;
  }
  test::TemporaryFolder folder;
};

/// The digest of both outputs of a completed attempt.
std::string outputs_of(const HandMadeRun& run, const fs::path& attempt) {
  const json end = run.end_of(attempt);
  INFO(end.dump());
  REQUIRE(end.at("event") == "stage_completed");
  return io::digest_file(attempt / "artifacts/generations.jsonl").sha256 +
         io::digest_file(attempt / "artifacts/generations.txt").sha256;
}

std::string outputs_on(int ranks, const json& config, const std::vector<fs::path>& inputs) {
  HandMadeRun run("infer", ranks, config, inputs);
  const fs::path attempt = run.new_attempt();
  const Finished finished = run.run(attempt);
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  return outputs_of(run, attempt);
}

std::size_t finished_in(const fs::path& attempt, int rank) {
  const fs::path file = attempt / ("finished." + std::to_string(rank) + ".jsonl");
  return fs::exists(file) ? io::read_json_lines(file).objects.size() : 0;
}

TEST_CASE("completions are the same to the byte on 1, 2 and 3 ranks, and where there are more ranks than prompts") {
  const Place place;
  const json config = place.config(5, {{"samples", 2}, {"sampling", {{"top_k", 80}, {"top_p", 0.9}}}});
  const std::string expected = outputs_on(1, config, place.inputs());
  for (const int ranks : {2, 3}) CHECK(outputs_on(ranks, config, place.inputs()) == expected);
  const json few = place.config(1);
  CHECK(outputs_on(3, few, place.inputs()) == outputs_on(1, few, place.inputs()));
}

TEST_CASE("a rank killed while it generates costs nothing that was finished") {
  const Place place;
  const json config = place.config(3000, {{"batch", 4}});
  const std::string expected = outputs_on(1, config, place.inputs());
  HandMadeRun run("infer", 2, config, place.inputs());
  const fs::path first = run.new_attempt();
  {
    test::Background mpirun(run.command(first));
    REQUIRE(test::wait_until([&] { return finished_in(first, 0) >= 20 && finished_in(first, 1) >= 20; }));
    ::kill(run.events_of(first)[0].at("pids")[1].get<pid_t>(), SIGKILL);
    CHECK(mpirun.wait().status != 0);
  }
  CHECK(run.events_of(first).size() == 1);
  run.set_ranks(3);
  const fs::path second = run.new_attempt();
  const Finished finished = run.run(second);
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  CHECK(outputs_of(run, second) == expected);
  CHECK(finished_in(second, 0) + finished_in(second, 1) + finished_in(second, 2) <= 2960);
}

TEST_CASE("USR2 stops generation between tokens") {
  const Place place;
  HandMadeRun run("infer", 2, place.config(3000, {{"batch", 4}}), place.inputs());
  const fs::path first = run.new_attempt();
  test::Background mpirun(run.command(first));
  REQUIRE(test::wait_until([&] { return finished_in(first, 0) >= 5; }));
  ::kill(run.events_of(first)[0].at("pids")[0].get<pid_t>(), SIGUSR2);
  CHECK(mpirun.wait().status == 0);
  CHECK(run.end_of(first).at("event") == "stage_stopped");
}

}  // namespace
}  // namespace braise
