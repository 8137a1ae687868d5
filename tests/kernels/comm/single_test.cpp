// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <catch2/catch.hpp>

#include "kernels/comm/communicator.h"
#include "kernels/core/error.h"

namespace braise::comm {
namespace {

TEST_CASE("the single communicator is rank 0 of 1 and hands back what it is given") {
  const auto comm = single();
  CHECK(comm->rank() == 0);
  CHECK(comm->size() == 1);
  comm->barrier();
  CHECK(comm->all_gather("mine") == std::vector<std::string>{"mine"});
  CHECK(comm->broadcast(std::string("a\0b", 3), 0) == std::string("a\0b", 3));
  CHECK(comm->all_max(-5) == -5);
  const std::array<std::byte, 2> sent = {std::byte{1}, std::byte{2}};
  std::array<std::byte, 2> received = {};
  comm->all_to_all(sent, received, 2);
  CHECK(received == sent);
  received = {};
  comm->all_gather(sent, received);
  CHECK(received == sent);
}

TEST_CASE("the single communicator refuses what could not be right with more ranks") {
  const auto comm = single();
  CHECK_THROWS_WITH(comm->broadcast("x", 1), Catch::Contains("rank 1 of 1"));
  std::array<std::byte, 2> bytes = {};
  CHECK_THROWS_AS(comm->all_to_all(bytes, std::span(bytes).first(1), 2), core::Error);
  CHECK_THROWS_AS(comm->all_to_all(bytes, bytes, 1), core::Error);
  CHECK_THROWS_AS(comm->all_gather(bytes, std::span(bytes).first(1)), core::Error);
}

}  // namespace
}  // namespace braise::comm
