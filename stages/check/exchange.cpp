// SPDX-License-Identifier: Apache-2.0
#include "stages/check/exchange.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "kernels/core/error.h"
#include "stages/check/pattern.h"

namespace braise::check {
namespace {

std::string hex(std::byte byte) {
  char text[8];
  std::snprintf(text, sizeof text, "0x%02x", std::to_integer<unsigned>(byte));
  return text;
}

}  // namespace

Exchange::Exchange(comm::Communicator& comm, std::size_t message_bytes)
    : comm_(comm),
      message_bytes_(message_bytes),
      send_(message_bytes * static_cast<std::size_t>(comm.size())),
      receive_(send_.size()) {}

void Exchange::run() {
  comm_.all_to_all(send_, receive_, message_bytes_);
}

void Exchange::verify(std::uint64_t round) {
  const auto me = static_cast<std::size_t>(comm_.rank());
  const auto ranks = static_cast<std::size_t>(comm_.size());
  for (std::size_t r = 0; r < ranks; ++r) {
    fill(std::span(send_).subspan(r * message_bytes_, message_bytes_), round, me, r);
  }
  std::fill(receive_.begin(), receive_.end(), std::byte{0});
  run();
  std::vector<std::byte> expected(message_bytes_);
  for (std::size_t r = 0; r < ranks; ++r) {
    fill(expected, round, r, me);
    const auto message = std::span(receive_).subspan(r * message_bytes_, message_bytes_);
    const auto [wanted, got] = std::mismatch(expected.begin(), expected.end(), message.begin());
    if (wanted == expected.end()) continue;
    throw core::Error("all-to-all self-test failed: what rank " + std::to_string(r) + " sent to rank " +
                      std::to_string(me) + " arrived wrong at byte " + std::to_string(wanted - expected.begin()) +
                      " of " + std::to_string(message_bytes_) + ": " + hex(*got) + " instead of " + hex(*wanted));
  }
}

}  // namespace braise::check
