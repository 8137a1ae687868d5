// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

TEST_CASE("ready-made recipes and examples are valid and can be planned") {
  std::vector<fs::path> recipes;
  for (const char* top : {"recipes", "examples"}) {
    for (const auto& entry : fs::recursive_directory_iterator(test::source_dir() / top)) {
      if (entry.path().extension() == ".yaml") recipes.push_back(entry.path());
    }
  }
  CHECK(recipes.size() >= 3);
  const test::TemporaryFolder folder;
  for (const fs::path& recipe : recipes) {
    for (const char* command : {"validate", "plan"}) {
      const test::Finished finished = test::run_program({test::program("braise"), command, recipe}, {}, folder.path());
      INFO(command << " " << recipe << ": " << finished.err);
      CHECK(finished.status == 0);
      CHECK(finished.err == "");
    }
  }
}

TEST_CASE("the quickstart, with fewer steps, and the examples run") {
  const test::TemporaryFolder folder;
  for (const std::string recipe : {"recipes/quickstart.yaml", "examples/edit-run-resume/recipe.yaml"}) {
    std::vector<std::string> command{test::program("braise"), "run", test::source_dir() / recipe};
    if (recipe.ends_with("quickstart.yaml")) {
      for (const char* shorter : {"stages.pretrain.steps=12", "stages.pretrain.schedule.warmup=4"}) {
        command.insert(command.end(), {"--set", shorter});
      }
    }
    const test::Finished finished = test::run_program(command, {}, folder.path());
    INFO(recipe << ": " << finished.err);
    REQUIRE(finished.status == 0);
    const std::string run = finished.out.substr(0, finished.out.size() - 1);
    CHECK(fs::path(run).parent_path() == fs::canonical(folder.path()) / "runs");
    const test::Finished status = test::run_program({test::program("braise"), "status", run, "--json"});
    CHECK(nlohmann::json::parse(status.out)["state"] == "completed");
  }
}

}  // namespace
}  // namespace braise
