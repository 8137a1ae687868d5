// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

using Settings = std::vector<std::string>;

/// What recipes want of their user: a text, examples, a model.
class Belongings {
 public:
  Belongings() {
    std::string lines;
    for (int i = 0; i < 200; ++i) {
      lines += R"({"prompt": "What is )" + std::to_string(i) + R"( plus 1? ", "completion": ")" +
               std::to_string(i + 1) + "\"}\n";
    }
    io::write_file_durably(folder_.path() / "examples.jsonl", lines);
  }

  /// The --set options with which a recipe can be planned.
  Settings settings(const fs::path& recipe) const {
    const std::string name = recipe.filename();
    const std::string text = test::source_dir() / "LICENSE";
    if (name == "shakespeare-char.yaml" || name == "tinystories.yaml") return {"vars.text=" + text};
    if (name == "gpt2-124m.yaml" || name == "llama-1b.yaml") return {"vars.texts=" + text};
    if (name == "resume-from-hf.yaml") {
      return {"vars.model=" + model().string(), "vars.examples=" + (folder_.path() / "examples.jsonl").string()};
    }
    return {};
  }

  fs::path model() const { return folder_.path() / "model"; }
  const fs::path& folder() const { return folder_.path(); }

 private:
  test::TemporaryFolder folder_;
};

test::Finished braise(const std::string& command, const fs::path& recipe, const Settings& settings,
                      const fs::path& folder) {
  std::vector<std::string> arguments{test::program("braise"), command, recipe};
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
  return test::run_program(arguments, {}, folder);
}

fs::path run_of(const test::Finished& finished) {
  INFO(finished.err);
  REQUIRE(finished.status == 0);
  return finished.out.substr(0, finished.out.size() - 1);
}

TEST_CASE("ready-made recipes and examples are valid and can be planned") {
  std::vector<fs::path> recipes;
  // Not what lies deeper: whoever followed an example there has left runs.
  std::vector<fs::path> folders{test::source_dir() / "recipes"};
  for (const auto& example : fs::directory_iterator(test::source_dir() / "examples")) {
    if (example.is_directory()) folders.push_back(example);
  }
  for (const fs::path& folder : folders) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".yaml") recipes.push_back(entry.path());
    }
  }
  CHECK(recipes.size() >= 8);
  const Belongings mine;
  fs::create_directories(mine.model());
  fs::copy(test::source_dir() / "tests/golden/models/llama2/config.json", mine.model());
  for (const fs::path& recipe : recipes) {
    for (const char* command : {"validate", "plan"}) {
      const test::Finished finished = braise(command, recipe, mine.settings(recipe), mine.folder());
      INFO(command << " " << recipe << ": " << finished.err);
      CHECK(finished.status == 0);
      CHECK(finished.err == "");
    }
  }
}

TEST_CASE("ready-made recipes run, with fewer steps, and the examples as they stand") {
  const Belongings mine;
  const fs::path recipes = test::source_dir() / "recipes";
  const auto few_steps = [](Settings settings) {
    settings.insert(settings.end(), {"stages.pretrain.steps=6", "stages.pretrain.schedule.warmup=2"});
    return settings;
  };
  const fs::path quickstart = run_of(braise("run", recipes / "quickstart.yaml", few_steps({}), mine.folder()));
  CHECK(quickstart.parent_path() == fs::canonical(mine.folder()) / "runs");
  const test::Finished status = test::run_program({test::program("braise"), "status", quickstart, "--json"});
  CHECK(nlohmann::json::parse(status.out)["state"] == "completed");

  for (const char* name : {"shakespeare-char.yaml", "tinystories.yaml"}) {
    INFO(name);
    const fs::path recipe = recipes / name;
    Settings settings = few_steps(mine.settings(recipe));
    if (recipe.filename() == "tinystories.yaml") {
      for (const char* smaller :
           {"stages.pretrain.tokens=0", "stages.pretrain.schedule.decay=2", "stages.pretrain.model.hidden=112",
            "stages.pretrain.batch.global=16", "stages.pretrain.batch.micro=2", "stages.corpus.validation.fraction=0.2",
            "stages.pretrain.validation.every=3"}) {
        settings.emplace_back(smaller);
      }
    }
    run_of(braise("run", recipe, settings, mine.folder()));
  }

  // What the quickstart trained, in Hugging Face's layout.
  const test::Finished exported = test::run_program(
      {test::program("braise"), "export", quickstart.string() + "/pretrain", "--to", mine.model()}, {}, mine.folder());
  INFO(exported.err);
  REQUIRE(exported.status == 0);
  const fs::path resume = recipes / "resume-from-hf.yaml";
  Settings settings = mine.settings(resume);
  for (const char* shorter : {"stages.finetune.epochs=0", "stages.finetune.steps=3", "stages.finetune.data.sequence=64",
                              "stages.finetune.schedule.warmup=1"}) {
    settings.emplace_back(shorter);
  }
  run_of(braise("run", resume, settings, mine.folder()));

  run_of(braise("run", test::source_dir() / "examples/edit-run-resume/recipe.yaml", {}, mine.folder()));
}

}  // namespace
}  // namespace braise
