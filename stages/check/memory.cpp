// SPDX-License-Identifier: Apache-2.0
#include "stages/check/memory.h"

#include <emmintrin.h>
#include <omp.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace braise::check {
namespace {

constexpr std::uint64_t kLine = 64;

}  // namespace

void MemoryArray::Free::operator()(std::byte* pointer) const {
  std::free(pointer);
}

MemoryArray::MemoryArray(std::uint64_t bytes) : threads_(omp_get_max_threads()) {
  const std::uint64_t unit = 2 * kLine * static_cast<std::uint64_t>(threads_);
  bytes_ = bytes / unit * unit;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kLine, bytes_)));
  if (!data_) throw std::bad_alloc();
  std::byte* const data = data_.get();
#pragma omp parallel num_threads(threads_)
  {
    const std::uint64_t part = bytes_ / static_cast<std::uint64_t>(threads_);
    std::memset(data + part * static_cast<std::uint64_t>(omp_get_thread_num()), 1, part);
  }
}

std::uint64_t MemoryArray::read() {
  const std::byte* const data = data_.get();
  std::uint64_t sum = 0;
#pragma omp parallel num_threads(threads_) reduction(+ : sum)
  {
    const std::uint64_t part = bytes_ / static_cast<std::uint64_t>(threads_);
    const std::byte* const begin = data + part * static_cast<std::uint64_t>(omp_get_thread_num());
    // Four sums at once: one alone would wait for its own additions, not for memory.
    __m128i sums[4] = {};
    for (const std::byte* line = begin; line < begin + part; line += kLine) {
      for (int i = 0; i < 4; ++i) {
        sums[i] = _mm_add_epi64(sums[i], _mm_load_si128(reinterpret_cast<const __m128i*>(line) + i));
      }
    }
    const __m128i both = _mm_add_epi64(_mm_add_epi64(sums[0], sums[1]), _mm_add_epi64(sums[2], sums[3]));
    sum += static_cast<std::uint64_t>(_mm_cvtsi128_si64(both));
  }
  sum_ += sum;
  const volatile std::uint64_t sink = sum_;
  static_cast<void>(sink);
  return bytes_;
}

std::uint64_t MemoryArray::copy() {
  std::byte* const data = data_.get();
#pragma omp parallel num_threads(threads_)
  {
    const std::uint64_t part = bytes_ / 2 / static_cast<std::uint64_t>(threads_);
    const std::uint64_t begin = part * static_cast<std::uint64_t>(omp_get_thread_num());
    std::memcpy(data + bytes_ / 2 + begin, data + begin, part);
  }
  return bytes_;
}

}  // namespace braise::check
