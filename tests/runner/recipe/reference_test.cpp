// SPDX-License-Identifier: Apache-2.0
#include "runner/recipe/reference.h"

#include <catch2/catch.hpp>

namespace braise::recipe {
namespace {

/// A template as one text: plain parts in quotes, references as they are.
std::string shape(const std::string& text) {
  const Template parsed = parse_template(text);
  if (!parsed.ok()) {
    CHECK_FALSE(parsed.remedy.empty());
    return "!" + parsed.problem;
  }
  std::string result;
  for (const TemplatePart& part : parsed.parts) {
    result += part.kind == TemplatePart::Kind::text ? "'" + part.text + "'" : "<" + part.text + ">";
  }
  return result;
}

TEST_CASE("text is taken apart into plain text and references") {
  CHECK(shape("") == "");
  CHECK(shape("a $ {b} $c }") == "'a $ {b} $c }'");
  CHECK(shape("${vars.a}") == "<vars.a>");
  CHECK(shape("x${vars.a.b-c_1}y${env.HOME}") == "'x'<vars.a.b-c_1>'y'<env.HOME>");
  CHECK(shape("${stages.a.b}") == "<stages.a.b>");
  CHECK(shape("${run.dir}/x${run.scratch}") == "<run.dir>'/x'<run.scratch>");
  CHECK(shape("$${vars.a}") == "'${vars.a}'");
  CHECK(shape("$$${vars.a}") == "'$${vars.a}'");
  CHECK(shape("$$$${vars.a}") == "'$$${vars.a}'");
  CHECK(shape("$${${vars.a}}") == "'${'<vars.a>'}'");
}

TEST_CASE("what is no reference is said to be none") {
  for (const char* text : {"${",
                           "${vars.a",
                           "${}",
                           "${ vars.a }",
                           "${vars}",
                           "${vars.}",
                           "${vars..a}",
                           "${.}",
                           "${vars.a b}",
                           "${$(ls)}",
                           "${vars.${vars.a}}",
                           "${env}",
                           "${env.A.B}",
                           "${stages.a}",
                           "${stages.a.b.c}",
                           "${run.root}",
                           "${run}",
                           "${run.dir.x}",
                           "${other.x}",
                           "${VARS.x}",
                           "${vars.ą}",
                           "${vars.a\n}"}) {
    INFO(text);
    CHECK(shape(text).substr(0, 1) == "!");
  }
}

TEST_CASE("escaped text stands for itself") {
  for (const std::string text : {"", "a", "${x}", "$${x}", "$$${x}", "$", "${", "$$", "a${b}${c}$"}) {
    INFO(text);
    const Template parsed = parse_template(escape_references(text));
    REQUIRE(parsed.ok());
    std::string back;
    for (const TemplatePart& part : parsed.parts) {
      CHECK(part.kind == TemplatePart::Kind::text);
      back += part.text;
    }
    CHECK(back == text);
  }
}

}  // namespace
}  // namespace braise::recipe
