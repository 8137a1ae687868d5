// SPDX-License-Identifier: Apache-2.0
#include "stages/tokenize/split.h"

#include <catch2/catch.hpp>
#include <cmath>

namespace braise::tokenize {
namespace {

TEST_CASE("Philox gives the numbers its authors published") {
  // Random123's kat_vectors, philox4x32 10: counter and key zero, first two words.
  CHECK(philox(0, 0) == 0xe169c58d6627e8d5);
}

TEST_CASE("documents are drawn at the wanted rate, by seed and index alone") {
  constexpr int kDocuments = 100'000;
  for (const double fraction : {0.01, 0.1, 0.5}) {
    int drawn = 0, drawn_by_both = 0;
    for (std::uint64_t i = 0; i < kDocuments; ++i) {
      const bool one = is_validation_document(1, i, fraction);
      drawn += one ? 1 : 0;
      drawn_by_both += one && is_validation_document(2, i, fraction) ? 1 : 0;
      REQUIRE(is_validation_document(1, i, fraction) == one);
    }
    // Five standard deviations of a binomial distribution.
    CHECK(std::abs(drawn - kDocuments * fraction) < 5 * std::sqrt(kDocuments * fraction * (1 - fraction)));
    const double both = fraction * fraction;
    CHECK(std::abs(drawn_by_both - kDocuments * both) < 5 * std::sqrt(kDocuments * both * (1 - both)));
  }
  for (std::uint64_t i = 0; i < 1000; ++i) REQUIRE_FALSE(is_validation_document(1, i, 0));
}

TEST_CASE("a larger fraction keeps what a smaller one kept") {
  for (std::uint64_t i = 0; i < 1000; ++i) {
    if (is_validation_document(9, i, 0.1)) REQUIRE(is_validation_document(9, i, 0.2));
  }
}

TEST_CASE("a tail begins after a newline, or at a character") {
  CHECK(tail_begin("0123456789", 0) == 10);
  CHECK(tail_begin("0123456789", 0.3) == 7);
  CHECK(tail_begin("0123456789", 0.99) == 1);
  CHECK(tail_begin("01234\n6789", 0.5) == 6);  // moved past the newline
  CHECK(tail_begin("01234\n6789", 0.4) == 6);  // just there
  CHECK(tail_begin("0123456\n89", 0.5) == 8);
  CHECK(tail_begin("012345678\n", 0.5) == 5);  // the only newline is the end: it would leave nothing
  CHECK(tail_begin("01\n3456789", 0.5) == 5);  // none follows
  CHECK(tail_begin("aaaa\xe2\x82\xac"
                   "aaa",
                   0.5) == 7);                           // 5 is inside the euro sign
  CHECK(tail_begin(std::string(10, '\x80'), 0.5) == 8);  // not UTF-8: at most three bytes on
  CHECK(tail_begin("", 0.5) == 0);
  CHECK(tail_begin("a", 0.5) == 1);
}

}  // namespace
}  // namespace braise::tokenize
