// SPDX-License-Identifier: Apache-2.0
#include "runner/report/shown_outputs.h"

#include <catch2/catch.hpp>

namespace braise::report {
namespace {

TEST_CASE("the beginning of a text is some lines of some length") {
  CHECK(beginning("", 3, 10) == "");
  CHECK(beginning("\n\n", 3, 10) == "");
  CHECK(beginning("a", 3, 10) == "a\n");
  CHECK(beginning("a\n\nb\n\n\n", 3, 10) == "a\n\nb\n");
  CHECK(beginning("a\nb\nc\nd\n", 3, 10) == "a\nb\nc\n...\n");
  CHECK(beginning("0123456789\n0123456789a\nb", 3, 10) == "0123456789\n0123456789...\nb\n");
  CHECK(beginning("abc\u00e9\u20ac", 3, 4) == "abc...\n");
  CHECK(beginning("abc\u00e9\u20ac", 3, 5) == "abc\u00e9...\n");
  CHECK(beginning("abc\u00e9\u20ac", 3, 8) == "abc\u00e9\u20ac\n");
}

}  // namespace
}  // namespace braise::report
