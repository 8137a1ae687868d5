// SPDX-License-Identifier: Apache-2.0
// Rates of quantizing and dequantizing, and of reading a weight file that is in the page cache, in GB of what is read
// and written, beside a memcpy on the same threads. Usage: weights_bench FOLDER [avx512|avx2|baseline], where FOLDER
// has room for 1 GB.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/core/tier.h"
#include "kernels/quant/ggml_blocks.h"
#include "kernels/quant/quantize.h"
#include "stages/shared/weights/safetensors.h"

namespace {

using namespace braise;
using core::Dtype;
using core::Shape;

constexpr std::int64_t kRows = 16384;
constexpr std::int64_t kColumns = 4096;
constexpr std::int64_t kGroup = 128;

class Bench {
 public:
  Bench() : arena_(core::kCpu, core::Space::kDevice, ledger_), stream_(core::make_stream(arena_)) {}

  core::Stream& stream() { return *stream_; }

  /// Every byte is 0x38: a small number in each dtype.
  core::Tensor tensor(Dtype dtype, const Shape& shape) {
    core::Tensor made = arena_.tensor(dtype, shape, core::Category::kParameters, "bench");
    std::memset(made.view.raw(), 0x38, static_cast<std::size_t>(made.view.bytes()));
    return made;
  }

 private:
  core::MemoryLedger ledger_;
  core::Arena arena_;
  std::unique_ptr<core::Stream> stream_;
};

/// The best of several runs, in GB/s.
void report(const std::string& what, std::int64_t bytes, const std::function<void()>& work) {
  double best = 1e9;
  for (int run = 0; run < 7; ++run) {
    const auto start = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::printf("%-40s %7.1f GB/s\n", what.c_str(), static_cast<double>(bytes) / best / 1e9);
}

void memcpy_rate(Bench& bench) {
  const core::Tensor from = bench.tensor(Dtype::kFloat32, {kRows, kColumns});
  const core::Tensor to = bench.tensor(Dtype::kFloat32, {kRows, kColumns});
  report("memcpy", 2 * from.view.bytes(), [&] {
    core::parallel_for(kRows, [&](std::int64_t row) {
      std::memcpy(to.view.data<float>() + row * kColumns, from.view.data<float>() + row * kColumns,
                  kColumns * sizeof(float));
    });
  });
}

void quantization(Bench& bench) {
  const core::Tensor scales = bench.tensor(Dtype::kFloat32, {kRows, kColumns / kGroup});
  for (const Dtype q_dtype : {Dtype::kInt8, Dtype::kInt4}) {
    const core::Tensor q = bench.tensor(q_dtype, {kRows, kColumns});
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
      const core::Tensor x = bench.tensor(dtype, {kRows, kColumns});
      const std::int64_t bytes = x.view.bytes() + q.view.bytes() + scales.view.bytes();
      const std::string pair = std::string(core::name(dtype)) + ", " + std::string(core::name(q_dtype));
      report("quantize_groups " + pair, bytes,
             [&] { quant::quantize_groups(bench.stream(), q.view, scales.view, x.view, kGroup); });
      report("dequantize_groups " + pair, bytes,
             [&] { quant::dequantize_groups(bench.stream(), x.view, q.view, scales.view, kGroup); });
    }
  }
}

void blocks(Bench& bench) {
  struct Format {
    const char* name;
    std::int64_t bytes;
    void (*dequantize)(core::Stream&, const core::TensorView&, const core::ConstTensorView&);
  };
  for (const Format& format : {Format{"q8_0", quant::kQ8_0Bytes, quant::dequantize_q8_0},
                               {"q4_0", quant::kQ4_0Bytes, quant::dequantize_q4_0},
                               {"q4_1", quant::kQ4_1Bytes, quant::dequantize_q4_1}}) {
    const core::Tensor from = bench.tensor(Dtype::kInt8, {kRows, kColumns / quant::kGgmlBlock * format.bytes});
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16, Dtype::kFloat16}) {
      const core::Tensor out = bench.tensor(dtype, {kRows, kColumns});
      report("dequantize_" + std::string(format.name) + " " + std::string(core::name(dtype)),
             from.view.bytes() + out.view.bytes(), [&] { format.dequantize(bench.stream(), out.view, from.view); });
    }
  }
}

void files(Bench& bench, const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "weights_bench.safetensors";
  for (const weights::Encoding encoding :
       {weights::Encoding::kF32, weights::Encoding::kBf16, weights::Encoding::kF8E4m3, weights::Encoding::kF64}) {
    const std::int64_t rows = encoding == weights::Encoding::kF64 ? kRows / 4 : kRows;
    const Shape shape{rows, kColumns};
    {
      weights::SafetensorsWriter writer(path, {{"x", encoding, shape}}, {});
      const std::string data(static_cast<std::size_t>(shape.elements() * weights::element_bytes(encoding)), '\x38');
      const auto start = std::chrono::steady_clock::now();
      writer.write("x", std::as_bytes(std::span(data)));
      writer.finish();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::printf("%-40s %7.1f GB/s\n", ("write " + std::string(name(encoding))).c_str(),
                  static_cast<double>(data.size()) / took.count() / 1e9);
    }
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
      const core::Tensor out = bench.tensor(dtype, shape);
      const std::int64_t bytes = out.view.bytes() + shape.elements() * weights::element_bytes(encoding);
      report("open and read " + std::string(name(encoding)) + " to " + std::string(core::name(dtype)), bytes,
             [&] { weights::open_safetensors(path).weights.read(bench.stream(), "x", out.view); });
    }
  }
  std::filesystem::remove(path);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: weights_bench FOLDER [avx512|avx2|baseline]\n");
    return 2;
  }
  if (count > 2) {
    const auto tier = core::tier_named(arguments[2]);
    if (!tier) {
      std::fprintf(stderr, "no tier is called %s\n", arguments[2]);
      return 2;
    }
    core::pin_tier(*tier);
  }
  Bench bench;
  std::printf("tier %s, %d threads\n", std::string(core::name(core::tier())).c_str(), core::threads());
  memcpy_rate(bench);
  quantization(bench);
  blocks(bench);
  files(bench, arguments[1]);
}
