// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cerrno>

#include "kernels/core/error.h"

namespace braise::core {
namespace {

TEST_CASE("an error knows its place, relative to the source tree") {
  const Error error("what");
  CHECK(error.place() == "tests/kernels/core/error_test.cpp:" + std::to_string(__LINE__ - 1));
  CHECK(std::string(error.what()) == "what");
}

TEST_CASE("a failed system call is told with its reason and the caller's place") {
  errno = ENOENT;
  try {
    fail_errno("cannot open x");
  } catch (const Error& error) {
    CHECK(std::string(error.what()) == "cannot open x: No such file or directory");
    CHECK(error.place() == "tests/kernels/core/error_test.cpp:" + std::to_string(__LINE__ - 3));
    return;
  }
  FAIL("nothing was thrown");
}

}  // namespace
}  // namespace braise::core
