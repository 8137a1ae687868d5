// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "schemas/schemas.h"
#include "stages/registry.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise {
namespace {
namespace fs = std::filesystem;

bool any_file(const fs::path& folder, const std::string& ending, const std::string& text) {
  if (!fs::is_directory(folder)) return false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.path().filename().string().ends_with(ending)) continue;
    if (io::read_file(entry.path()).find(text) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("every stage kind is whole: schema, README, recipe, tests, descriptions") {
  const fs::path root = test::source_dir();
  std::set<std::string> names;
  for (const stages::StageDescriptor* kind : stages::registry()) {
    const std::string name = kind->kind;
    INFO(name);
    CHECK(names.insert(name).second);
    CHECK(kind->version >= 1);
    CHECK(std::string(kind->summary) != "");
    CHECK_FALSE(kind->devices.empty());
    CHECK(schemas::text("stage." + name + ".schema.json") != nullptr);
    CHECK(fs::exists(root / "stages" / name / "README.md"));
    CHECK(any_file(root / "recipes", ".yaml", "kind: " + name));
    CHECK(any_file(root / "tests/stages" / name, "_test.cpp", "TEST_CASE"));
    for (const stages::OutputDeclaration& output : kind->outputs) {
      CHECK(output.description != "");
      CHECK(output.path.rfind("artifacts/", 0) == 0);
    }
    CHECK(schemas::schema(
              "recipe.schema.json")["properties"]["stages"]["additionalProperties"]["properties"]["kind"]["enum"]
              .dump()
              .find("\"" + name + "\"") != std::string::npos);
  }
  CHECK(stages::find_kind("tokenize") != nullptr);
  CHECK(stages::find_kind("tokenise") == nullptr);
}

TEST_CASE("every top-level folder tells what enters, what leaves and what it may include") {
  for (const char* folder : {"kernels", "recipes", "runner", "schemas", "stages", "tests", "examples"}) {
    INFO(folder);
    CHECK(fs::exists(test::source_dir() / folder / "README.md"));
  }
}

}  // namespace
}  // namespace braise
