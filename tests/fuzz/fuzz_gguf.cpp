// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to the reader of GGUF, as a file.
#include "stages/shared/weights/gguf.h"
#include "tests/fuzz/weight_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace braise;
  static test::MemoryFile file;
  file.set({data, size});
  try {
    const weights::Gguf gguf = weights::open_gguf(file.path());
    for (const auto& [key, value] : gguf.metadata.values()) {
      try {
        gguf.metadata.number(key);
        gguf.metadata.integer(key);
      } catch (const core::Error& error) {
        test::check_message(error, file.path());
      }
    }
    std::size_t bytes = 0;
    for (const weights::TensorInfo& tensor : gguf.weights.tensors()) bytes += tensor.bytes.size();
    test::require(bytes <= size, "tensors share bytes", std::to_string(bytes));
    test::read_all(gguf.weights, file.path());
  } catch (const core::Error& error) {
    test::check_message(error, file.path());
  }
  return 0;
}
