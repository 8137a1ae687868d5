// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runner/recipe/recipe.h"
#include "tests/support/support.h"

namespace braise::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const char* const kRecipe =
    "recipe: 1\nname: x\nvars: {width: 4, deep: {a: 1, b: 2}}\nstages:\n  selftest: {kind: check, gemm_size: 64}\n"
    "  corpus: {kind: tokenize, input: \"${vars.input}\"}\n";

/// The faults of loading a path, which must not even give a document.
std::string refused(const fs::path& path) {
  stages::Faults faults;
  CHECK_FALSE(load(path, {}, faults));
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].at.file);
  CHECK(*faults[0].at.file == path.string());
  return faults[0].problem;
}

struct Loaded {
  json root;
  std::string faults;
};

Loaded load_with(const Overrides& overrides, const char* text = kRecipe) {
  stages::Faults faults;
  const std::optional<Document> document = load_text(text, "r.yaml", "/base", overrides, faults);
  REQUIRE(document);
  return {document->root.to_json(), stages::to_string(faults)};
}

TEST_CASE("only a regular file of some size is read") {
  const test::TemporaryFolder folder;
  CHECK(refused(folder.path()) == "is a folder");
  CHECK(refused(folder.path() / "nothing.yaml") == "does not exist");
  CHECK(refused(folder.write("file", "x") / "below.yaml") == "does not exist");
  CHECK(refused("") == "does not exist");
  CHECK(refused("/dev/zero") == "is not a regular file");
  REQUIRE(::mkfifo((folder.path() / "fifo").c_str(), 0600) == 0);
  CHECK(refused(folder.path() / "fifo") == "is not a regular file");
  fs::create_symlink("loop", folder.path() / "loop");
  CHECK(refused(folder.path() / "loop").find("cannot be read") == 0);
  CHECK(refused(folder.path() / std::string(300, 'n')).find("cannot be read") == 0);

  const fs::path sparse = folder.write("sparse.yaml", "recipe: 1\n");
  fs::resize_file(sparse, 100 << 20);
  CHECK(refused(sparse) == "is larger than 8 MiB");
  fs::resize_file(sparse, (8 << 20) + 1);
  CHECK(refused(sparse) == "is larger than 8 MiB");
}

TEST_CASE("a file that may not be read is refused") {
  const test::TemporaryFolder folder;
  const fs::path path = folder.write("secret.yaml", "recipe: 1\n");
  fs::permissions(path, fs::perms::none);
  if (::access(path.c_str(), R_OK) == 0) {
    WARN("skipped: this user may read every file");
    return;
  }
  CHECK(refused(path).find("cannot be read: Permission denied") == 0);
}

TEST_CASE("file names are shown safely") {
  const test::TemporaryFolder folder;
  for (const char* name : {"new\nline.yaml", "'quote\".yaml", "-dash.yaml", "\x1b[31m.yaml", "\xff.yaml"}) {
    const fs::path path = folder.write(name, "recipe: 2\n");
    stages::Faults faults;
    const std::optional<Document> document = load(path, {}, faults);
    REQUIRE(document);
    CHECK_FALSE(resolve(*document, {}, faults));
    const std::string text = stages::to_string(faults);
    CHECK(text.find('\x1b') == std::string::npos);
    CHECK(std::count(text.begin(), text.end(), '\n') == static_cast<std::ptrdiff_t>(faults.size()));
  }
}

TEST_CASE("a document remembers what it was read from") {
  const test::TemporaryFolder folder;
  const fs::path recipe =
      folder.write("a/r.yaml", "recipe: 1\nname: x\ninclude: [../b/i.yaml, ../b/i.yaml]\nstages: {}\n");
  folder.write("b/i.yaml", "seed: 5\n");
  const fs::path vars = folder.write("v.yaml", "width: 7\n");
  stages::Faults faults;
  const std::optional<Document> document = load(recipe, {{"seed=6"}, {vars}}, faults);
  REQUIRE(document);
  CHECK(stages::to_string(faults) == "");
  REQUIRE(document->sources.size() == 4);
  CHECK(document->sources[0].path == recipe.string());
  CHECK(document->sources[0].folder == folder.path() / "a");
  CHECK(document->sources[1].text == "seed: 5\n");
  CHECK(document->sources[3].path == vars.string());
  CHECK(document->directory == folder.path() / "a");
  CHECK(document->command_directory == fs::current_path());
  CHECK(document->root.find("include") == nullptr);
  CHECK(document->root.find("seed")->to_json() == 6);
  CHECK(document->root.find("vars")->to_json() == json{{"width", 7}});
}

TEST_CASE("marks keep their own file after a merge") {
  const test::TemporaryFolder folder;
  const fs::path recipe = folder.write("r.yaml", "include: [i.yaml]\nresources:\n  threads: 2\n");
  folder.write("i.yaml", "# first\nresources: {retries: 1}\nseed: 5\n");
  stages::Faults faults;
  const Document document = load(recipe, {}, faults).value();
  const auto place = [&](const char* path) {
    const yaml::Mark mark = mark_of(document, path);
    return fs::path(*mark.file).filename().string() + ":" + std::to_string(mark.line) + ":" +
           std::to_string(mark.column);
  };
  CHECK(place("resources.threads") == "r.yaml:3:12");
  CHECK(place("resources.retries") == "i.yaml:2:22");
  CHECK(place("seed") == "i.yaml:3:7");
  CHECK(place("seed.nothing.there") == "i.yaml:3:7");
  CHECK(place("nothing") == "r.yaml:1:1");
}

TEST_CASE("a recipe that is no file includes nothing") {
  const Loaded loaded = load_with({}, "include: [/etc/passwd]\nrecipe: 1\n");
  CHECK(loaded.faults ==
        "r.yaml:1:11: include.0: nothing can be included here; only a recipe in a file can include others\n");
}

TEST_CASE("a value is put at a path by --set") {
  const Loaded loaded =
      load_with({{"vars.width=512", "vars.deep.a=[1, {b: c}]", "stages.selftest.duration=2s", "vars.input=a=b.txt",
                  "resources.threads=2", "description=\"\"", "name=", "seed=0x10", "stages.more={kind: check}",
                  "x-anything.at.all=1", "stages.selftest.gemm_size=32"},
                 {}});
  CHECK(loaded.faults == "");
  CHECK(loaded.root["vars"] ==
        json{{"width", 512}, {"deep", {{"a", {1, {{"b", "c"}}}}, {"b", 2}}}, {"input", "a=b.txt"}});
  CHECK(loaded.root["stages"]["selftest"] == json{{"kind", "check"}, {"gemm_size", 32}, {"duration", "2s"}});
  CHECK(loaded.root["stages"]["more"] == json{{"kind", "check"}});
  CHECK(loaded.root["resources"] == json{{"threads", 2}});
  CHECK(loaded.root["description"] == "");
  CHECK(loaded.root["name"] == nullptr);
  CHECK(loaded.root["seed"] == 16);
}

TEST_CASE("a --set that leads nowhere is a fault that names it") {
  const auto fault = [](const char* argument) { return load_with({{argument}, {}}).faults; };
  CHECK(fault("vars.width") == "--set: `vars.width` is not of the form path=value; write it like `vars.width=512`\n");
  CHECK(fault("=5") == "--set: `=5` is not of the form path=value; write it like `vars.width=512`\n");
  CHECK(fault("sed=5") == "--set: sed: there is no `sed`; did you mean `seed`?\n");
  CHECK(fault("vars.widht=5") == "--set: vars.widht: there is no `vars.widht`; did you mean `vars.width`?\n");
  CHECK(fault("stages.selftets.seed=5") ==
        "--set: stages.selftets.seed: there is no `stages.selftets`; did you mean `stages.selftest`?\n");
  CHECK(fault("stages.selftest.gem_size=5") ==
        "--set: stages.selftest.gem_size: there is no `stages.selftest.gem_size`; did you mean "
        "`stages.selftest.gemm_size`?\n");
  CHECK(
      fault("stages.selftest.gemm_size.x=5") ==
      "--set: stages.selftest.gemm_size.x: `stages.selftest.gemm_size` has no keys, so no `x`; give the whole of it\n");
  CHECK(fault("vars.width.x=5") == "--set: vars.width.x: `vars.width` has no keys, so no `x`; give the whole of it\n");
  CHECK(fault("include=[a.yaml]") == "--set: include: cannot be set; name the file in the recipe\n");
  CHECK(
      fault("seed=[1") ==
      "--set: seed: the value: YAML syntax: end of sequence flow not found; separate items with `,` and close the list "
      "with `]`\n");
  CHECK(fault("seed=\xff").find("--set: seed: the value: byte 0xff is not UTF-8") == 0);
  CHECK(fault("a..b=1").find("--set: a..b: there is no `a`") == 0);
}

TEST_CASE("a wrong value given by --set is reported as given there") {
  stages::Faults faults;
  const Document document = load_text(kRecipe, "r.yaml", "/base", {{"seed=-1", "vars.input=a"}, {}}, faults).value();
  CHECK_FALSE(resolve(document, {}, faults));
  CHECK(stages::to_string(faults) == "--set: seed: is -1; must be a whole number from 0\n");
}

TEST_CASE("files of variables are merged over the recipe's, later ones win, --set last") {
  const test::TemporaryFolder folder;
  const fs::path one = folder.write("one.yaml", "width: 5\ndeep: {b: 3}\ninput: one.txt\n");
  const fs::path two = folder.write("two.yaml", "width: 6\n");
  const Loaded loaded = load_with({{"vars.deep.a=9"}, {one, two}});
  CHECK(loaded.faults == "");
  CHECK(loaded.root["vars"] == json{{"width", 6}, {"deep", {{"a", 9}, {"b", 3}}}, {"input", "one.txt"}});
  CHECK(load_with({{}, {folder.path() / "none.yaml"}}).faults.find("none.yaml: does not exist") != std::string::npos);
  CHECK(
      load_with({{}, {folder.write("list.yaml", "- 1\n")}}).faults.find("list.yaml:1:1: is a list; must be a map of") !=
      std::string::npos);
  CHECK(load_with({{}, {folder.write("twice.yaml", "a: 1\na: 2\n")}}).faults.find("twice.yaml:2:1: key `a`") !=
        std::string::npos);
}

TEST_CASE("a recipe and its includes together are limited to 8 MiB") {
  const test::TemporaryFolder folder;
  folder.write("big.yaml", "# " + std::string(5 << 20, 'x') + "\nseed: 1\n");
  const fs::path recipe = folder.write("r.yaml", "recipe: 1\nname: x\ninclude: [big.yaml, big.yaml]\nstages: {}\n");
  stages::Faults faults;
  load(recipe, {}, faults);
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].problem.find("is larger than 8 MiB") != std::string::npos);
}

}  // namespace
}  // namespace braise::recipe
