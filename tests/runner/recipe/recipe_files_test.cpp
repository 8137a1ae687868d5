// SPDX-License-Identifier: Apache-2.0
// Holds every recipe in tests/recipes against the file beside it that says what must come of it.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runner/recipe/recipe.h"
#include "schemas/schemas.h"
#include "stages/shared/io/file.h"
#include "stages/shared/yaml/parse.h"
#include "tests/support/schema.h"
#include "tests/support/support.h"

namespace braise::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Works in a folder of recipes, so that messages hold bare file names, with the variables that the recipes refer to.
class RecipeFolder {
 public:
  explicit RecipeFolder(const std::string& name)
      : before_(fs::current_path()), path_(test::source_dir() / "tests/recipes" / name) {
    fs::current_path(path_);
    ::setenv("BRAISE_TEST_SET", "here", 1);
    ::setenv("BRAISE_TEST_NUMBER", "4", 1);
    ::unsetenv("BRAISE_TEST_UNSET");
  }
  ~RecipeFolder() { fs::current_path(before_); }

  const fs::path& path() const { return path_; }

  std::vector<std::string> recipes() const {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
      if (entry.path().extension() == ".yaml") names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  fs::path before_, path_;
};

std::string beside(const std::string& recipe, const char* extension) {
  return fs::path(recipe).replace_extension(extension).string();
}

/// All faults of a recipe, as `braise validate` shows them.
std::string faults_of(const std::string& recipe) {
  stages::Faults faults;
  const std::optional<Document> document = load(recipe, {}, faults);
  if (document) {
    for (const Point& point : sweep_points(*document, faults)) resolve(*document, point, faults);
  }
  return stages::to_string(faults);
}

TEST_CASE("every invalid recipe gives exactly the diagnostics beside it") {
  const RecipeFolder folder("invalid");
  const std::vector<std::string> recipes = folder.recipes();
  CHECK(recipes.size() >= 60);
  for (const std::string& recipe : recipes) {
    INFO(recipe);
    CHECK(faults_of(recipe) == io::read_file(beside(recipe, ".expected")));
  }
}

TEST_CASE("an invalid recipe has one fault, but one file has ten, and all ten are reported") {
  const RecipeFolder folder("invalid");
  for (const std::string& recipe : folder.recipes()) {
    INFO(recipe);
    const std::string expected = io::read_file(beside(recipe, ".expected"));
    const auto lines = std::count(expected.begin(), expected.end(), '\n');
    CHECK(lines == (recipe == "ten_faults.yaml" ? 10 : 1));
  }
}

/// The same value with the folder's name for "@FOLDER@".
json placed(const json& value, const std::string& folder) {
  if (value.is_string()) {
    std::string text = value;
    const std::size_t at = text.find("@FOLDER@");
    return at == std::string::npos ? text : text.replace(at, 8, folder);
  }
  json result = value;
  for (json& item : result) {
    if (value.is_structured()) item = placed(item, folder);
  }
  return result;
}

TEST_CASE("every valid recipe resolves to what stands beside it") {
  const RecipeFolder folder("valid");
  const std::vector<std::string> recipes = folder.recipes();
  CHECK(recipes.size() >= 12);
  for (const std::string& recipe : recipes) {
    INFO(recipe);
    CHECK(faults_of(recipe).empty());
    stages::Faults faults;
    const std::optional<Document> document = load(recipe, {}, faults);
    REQUIRE(document);
    const std::vector<Point> points = sweep_points(*document, faults);
    const std::optional<Recipe> resolved = resolve(*document, points.front(), faults);
    REQUIRE(resolved);
    const json expected = json::parse(io::read_file(beside(recipe, ".resolved.json")));
    CHECK(resolved->resolved == placed(expected, folder.path()));
  }
}

TEST_CASE("every valid recipe passes the published schema, as written and as resolved") {
  const RecipeFolder folder("valid");
  const json& schema = schemas::schema("recipe.schema.json");
  for (const std::string& recipe : folder.recipes()) {
    INFO(recipe);
    stages::Faults faults;
    const std::optional<Document> document = load(recipe, {}, faults);
    REQUIRE(document);
    CHECK(test::schema_faults(document->root.to_json(), schema) == "");
    for (const Point& point : sweep_points(*document, faults)) {
      CHECK(test::schema_faults(resolve(*document, point, faults).value().resolved, schema) == "");
    }
  }
}

TEST_CASE("a resolved recipe is a recipe that means the same") {
  const RecipeFolder folder("valid");
  for (const std::string& recipe : folder.recipes()) {
    INFO(recipe);
    stages::Faults faults;
    const std::optional<Document> document = load(recipe, {}, faults);
    REQUIRE(document);
    const Recipe once = resolve(*document, sweep_points(*document, faults).front(), faults).value();
    const std::optional<Document> again =
        load_text(yaml::to_text(once.resolved), "resolved.yaml", "/nowhere", {}, faults);
    REQUIRE(again);
    const std::optional<Recipe> twice = resolve(*again, {}, faults);
    CHECK(stages::to_string(faults) == "");
    REQUIRE(twice);
    CHECK(twice->resolved == once.resolved);
    REQUIRE(twice->stages.size() == once.stages.size());
    for (const Stage& stage : once.stages) {
      const auto same = [&](const Stage& other) { return other.name == stage.name && other.config == stage.config; };
      CHECK(std::any_of(twice->stages.begin(), twice->stages.end(), same));
    }
  }
}

}  // namespace
}  // namespace braise::recipe
