// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/site.h"

#include <catch2/catch.hpp>

#include "stages/shared/yaml/parse.h"
#include "tests/support/support.h"

namespace braise::recipe {
namespace {

TEST_CASE("a site file is read, and what it leaves out is as by default") {
  const test::TemporaryFolder folder;
  const auto path = folder.write("site.yaml",
                                 "site: 1\npartition: long\naccount: physics\ncuda: {partition: gpu}\n"
                                 "environment: {A: \"${not} a 'reference'\\n\"}\nsetup: [\"module load ${X}\"]\n");
  stages::Faults faults;
  const std::optional<Site> site = load_site(path, faults);
  INFO(stages::to_string(faults));
  REQUIRE(site);
  CHECK(site->place("cpu").partition == "long");
  CHECK(site->place("cuda").partition == "gpu");
  CHECK(site->place("cuda").account == "physics");
  CHECK(site->environment.at("A") == "${not} a 'reference'\n");
  CHECK(site->setup == std::vector<std::string>{"module load ${X}"});
  CHECK(site->gpus == "gres");
  CHECK(site->mpi_kind == "pmix");
  // What is recorded in a run is itself a site file that says the same.
  const std::optional<Site> again = load_site(folder.write("again.yaml", yaml::to_text(site->resolved)), faults);
  REQUIRE(again);
  CHECK(again->resolved == site->resolved);
  CHECK(default_site().cpu.partition.empty());
}

TEST_CASE("all that is wrong with a site file is told, with its place") {
  const test::TemporaryFolder folder;
  const auto path = folder.write(
      "site.yaml",
      "site: 1\npartitoin: x\naccount: \"a b\"\nqos: --x\nconstraint: \"a;b\"\n"
      "sbatch: [\"-n 1\", \"--wrap=a\\nb\", \"--x=\\\"y\\\"\"]\nenvironment: {\"A B\": x}\n");
  stages::Faults faults;
  CHECK_FALSE(load_site(path, faults));
  const std::string text = stages::to_string(faults);
  INFO(text);
  CHECK(faults.size() == 8);
  CHECK_THAT(text, Catch::Contains("site.yaml:2:1: partitoin: unknown key; did you mean `partition`?"));
  CHECK_THAT(text, Catch::Contains(":3:10: account: is \"a b\""));
  CHECK_FALSE(load_site(folder.path() / "gone.yaml", faults));
}

}  // namespace
}  // namespace braise::recipe
