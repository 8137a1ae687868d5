// SPDX-License-Identifier: Apache-2.0
#include "runner/report/format.h"

#include <catch2/catch.hpp>

#include "runner/report/reference.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::report {
namespace {

TEST_CASE("a table's columns are aligned by characters") {
  Table table({"a", "b"});
  table.add({"größe", "1"});
  table.add({"x", "22"});
  CHECK(table.text("> ") == "> a      b\n> größe  1\n> x      22\n");
}

TEST_CASE("the reference page in recipes/ is the one the schemas give") {
  CHECK(io::read_file(test::source_dir() / "recipes/REFERENCE.md") == reference_page());
}

}  // namespace
}  // namespace braise::report
