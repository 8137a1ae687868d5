// SPDX-License-Identifier: Apache-2.0
#include "stages/api/input_path.h"

#include <catch2/catch.hpp>

#include "tests/support/support.h"

namespace braise::stages {
namespace {

TEST_CASE("patterns are told from names with escaped characters") {
  for (const char* path : {"/a/*.txt", "/a/b?", "/a/[xy]", "/a[", "/[*]/*", "[a]", "/x[*"}) CHECK(is_pattern(path));
  for (const char* path : {"", "/a/b.txt", "/a[*]b", "/[?][[][*]", "/a]"}) CHECK_FALSE(is_pattern(path));
}

TEST_CASE("an input's path is unescaped, unless it is there as it stands") {
  CHECK(input_path("/nowhere/a") == "/nowhere/a");
  CHECK(input_path("/nowhere/[*]a[[]b[?]") == "/nowhere/*a[b?");
  CHECK(input_path("/nowhere/[x]") == "/nowhere/[x]");
  const test::TemporaryFolder folder;
  const std::filesystem::path odd = folder.write("a[*]", "");
  CHECK(input_path(odd) == odd);
  folder.write("b*", "");
  CHECK(input_path(folder.path() / "b[*]") == folder.path() / "b*");
}

}  // namespace
}  // namespace braise::stages
