// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to the reader of safetensors, as a file.
#include "stages/shared/weights/safetensors.h"
#include "tests/fuzz/weight_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace braise;
  static test::MemoryFile file;
  file.set({data, size});
  try {
    test::read_all(weights::open_safetensors(file.path()).weights, file.path());
  } catch (const core::Error& error) {
    test::check_message(error, file.path());
  }
  return 0;
}
