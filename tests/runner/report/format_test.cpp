// SPDX-License-Identifier: Apache-2.0
#include "runner/report/format.h"

#include <catch2/catch.hpp>

#include "runner/report/reference.h"
#include "stages/shared/io/file.h"
#include "tests/support/support.h"

namespace braise::report {
namespace {

TEST_CASE("quantities for people") {
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1024) == "1 KiB");
  CHECK(bytes_text(1536) == "1.5 KiB");
  CHECK(bytes_text(1048575) == "1 MiB");
  CHECK(bytes_text(std::uint64_t{150} << 30) == "150 GiB");
  CHECK(duration_text(-1) == "0.0 s");
  CHECK(duration_text(9.94) == "9.9 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(60) == "1 min 00 s");
  CHECK(duration_text(3661) == "1 h 01 min");
  CHECK(duration_text(90000) == "1 d 01 h");
  CHECK(count_text(0) == "0");
  CHECK(count_text(999.4) == "999");
  CHECK(count_text(999.6) == "1.00 k");
  CHECK(count_text(12345) == "12.3 k");
  CHECK(count_text(4560000) == "4.56 M");
}

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
