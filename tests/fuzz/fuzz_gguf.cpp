// SPDX-License-Identifier: Apache-2.0
// Feeds bytes to the readers of GGUF, as a file: what it holds, and the model it may be.
#include "stages/shared/weights/gguf.h"

#include <algorithm>

#include "stages/shared/model/gguf_model.h"
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
    return 0;
  }
  try {
    test::read_all(model::open_gguf_model(file.path()).weights, file.path());
  } catch (const core::Error& error) {
    std::string message = error.what();  // a line for each problem
    test::require(message.find(file.path()) != std::string::npos, "an error does not name the file", message);
    std::erase(message, '\n');
    const bool tame = std::all_of(message.begin(), message.end(), [](unsigned char c) { return c >= 0x20; });
    test::require(tame, "an error holds a control character", message);
  }
  return 0;
}
