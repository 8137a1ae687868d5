// SPDX-License-Identifier: Apache-2.0
#include "kernels/core/random_fill.h"

#include "kernels/core/random_fill_cpu.h"

namespace braise::core {
namespace {

void check(const char* operation, const TensorView& tensor) {
  require_float_tensor(operation, "tensor", tensor, tensor.shape());
  require(tensor.contiguous(), operation, "tensor is not contiguous");
}

}  // namespace

void random_words(const RandomStream& random, std::uint64_t first, std::span<std::uint32_t> words) {
  while (!words.empty() && first % 4 != 0) {
    words.front() = random.word(first++);
    words = words.subspan(1);
  }
  const std::size_t blocks = words.size() / 4;
  cpu::random_blocks(random, first / 4, blocks, words.data());
  for (std::size_t i = 4 * blocks; i < words.size(); ++i) words[i] = random.word(first + i);
}

void fill_uniform(Stream& stream, const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                  float low, float high) {
  check("fill_uniform", tensor);
  require_cpu(stream, "fill_uniform");
  cpu::random_fill(tensor, random, first_element, cpu::Distribution::kUniform, low, high - low);
}

void fill_normal(Stream& stream, const TensorView& tensor, const RandomStream& random, std::uint64_t first_element,
                 float mean, float deviation) {
  check("fill_normal", tensor);
  require_cpu(stream, "fill_normal");
  cpu::random_fill(tensor, random, first_element, cpu::Distribution::kNormal, mean, deviation);
}

}  // namespace braise::core
