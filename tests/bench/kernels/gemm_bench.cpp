// SPDX-License-Identifier: Apache-2.0
// Rates of linear::matmul for the products of one GPT-2 124M training step, or of quant::int8_matmul for its forward
// pass, each beside oneDNN's own whole-product primitive on the same threads, in turns. Usage: gemm_bench
// [fp32|bf16|int8] [rows]
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/random.h"
#include "kernels/core/tier.h"
#include "kernels/linear/matmul.h"
#include "kernels/linear/tier.h"
#include "kernels/quant/int8_matmul.h"
#include "kernels/quant/quantize.h"
#include "tests/bench/kernels/whole_product.h"

namespace {

using namespace braise;
using core::Dtype;
using core::Shape;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Values that are neither zero nor all alike: pages never written would all be one page of zeros, in the cache.
core::Tensor random_tensor(core::Arena& arena, Dtype dtype, const Shape& shape, std::uint64_t seed) {
  core::Tensor tensor = arena.tensor(dtype, shape, core::Category::kActivations, "bench");
  const core::RandomStream random(seed, core::Purpose::kData);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const float value = core::uniform(random.word(static_cast<std::uint64_t>(i % 65536))) - 0.5f;
    if (dtype == Dtype::kFloat32) {
      tensor.view.data<float>()[i] = value;
    } else {
      tensor.view.data<core::Bfloat16>()[i] = core::to_bfloat16(value);
    }
  }
  return tensor;
}

template <class First, class Second>
std::pair<double, double> best_seconds(const First& first, const Second& second) {
  double best_first = 1e30;
  double best_second = 1e30;
  const double end = now() + 1.5;
  for (int i = 0; i < 4 || now() < end; ++i) {
    const double start = now();
    first();
    const double middle = now();
    second();
    best_first = std::min(best_first, middle - start);
    best_second = std::min(best_second, now() - middle);
  }
  return {best_first, best_second};
}

struct Layer {
  const char* name;
  std::int64_t inputs;
  std::int64_t outputs;
};
constexpr Layer kLayers[] = {{"qkv", 768, 2304},
                             {"attention projection", 768, 768},
                             {"mlp up", 768, 3072},
                             {"mlp down", 3072, 768},
                             {"head, one chunk", 768, 8192}};

/// In groups of 128, and in one group.
void integers(core::Arena& arena, core::Stream& stream, std::int64_t rows) {
  for (const Layer& layer : kLayers) {
    for (const std::int64_t group : {std::int64_t{128}, layer.inputs}) {
      const auto quantized = [&](std::int64_t count, std::uint64_t seed) {
        const core::Tensor values = random_tensor(arena, Dtype::kFloat32, Shape{count, layer.inputs}, seed);
        auto made = std::pair{
            arena.tensor(Dtype::kInt8, values.view.shape(), core::Category::kActivations, "bench"),
            arena.tensor(Dtype::kFloat32, Shape{count, layer.inputs / group}, core::Category::kActivations, "bench")};
        quant::quantize_groups(stream, made.first.view, made.second.view, values.view, group);
        return made;
      };
      const auto [x, x_scales] = quantized(rows, 1);
      const auto [w, w_scales] = quantized(layer.outputs, 2);
      quant::PackedInt8 packed(arena, layer.inputs, layer.outputs, group, core::Category::kParameters, "w");
      packed.pack(stream, w.view, w_scales.view);
      const core::Tensor y =
          arena.tensor(Dtype::kFloat32, Shape{rows, layer.outputs}, core::Category::kActivations, "bench");
      bench::WholeProduct whole(Dtype::kInt8, rows, layer.inputs, layer.outputs);
      const auto [ours, theirs] = best_seconds(
          [&, &x = x, &x_scales = x_scales] { quant::int8_matmul(stream, y.view, x.view, x_scales.view, packed); },
          [&] { whole.run(); });
      const double operations = 2e-9 * static_cast<double>(rows * layer.inputs * layer.outputs);
      std::printf("%-22s groups of %-6ld %7.0f | %7.0f | %.2f\n", layer.name, group, operations / ours,
                  operations / theirs, theirs / ours);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const Dtype dtype = count > 1 ? core::dtype_named(arguments[1]).value_or(Dtype::kBfloat16) : Dtype::kBfloat16;
  const std::int64_t rows = count > 2 ? std::stol(arguments[2]) : 4096;
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const auto stream = core::make_stream(arena);
  std::printf(
      "%s, %ld rows, %d threads, tier %s; GFLOP/s (of int8: GOP/s) of ours | of oneDNN's whole product | ratio\n",
      std::string(core::name(dtype)).c_str(), rows, omp_get_max_threads(),
      std::string(core::name(linear::settle_tier())).c_str());
  if (dtype == Dtype::kInt8) {
    integers(arena, *stream, rows);
    return 0;
  }
  for (const Layer& layer : kLayers) {
    const core::Tensor x = random_tensor(arena, dtype, Shape{rows, layer.inputs}, 1);
    const core::Tensor w = random_tensor(arena, dtype, Shape{layer.outputs, layer.inputs}, 2);
    const core::Tensor y = random_tensor(arena, dtype, Shape{rows, layer.outputs}, 3);
    const core::Tensor dw =
        arena.tensor(Dtype::kFloat32, Shape{layer.outputs, layer.inputs}, core::Category::kGradients, "dw");
    std::memset(dw.view.raw(), 0, static_cast<std::size_t>(dw.view.bytes()));
    linear::PackedMatrix forward(arena, dtype, layer.inputs, layer.outputs, core::Category::kParameters, "w");
    linear::PackedMatrix backward(arena, dtype, layer.outputs, layer.inputs, core::Category::kParameters, "w");
    forward.pack(*stream, w.view.transposed(0, 1));
    backward.pack(*stream, w.view);
    const double operations = 2e-9 * static_cast<double>(rows * layer.inputs * layer.outputs);
    linear::matmul(*stream, y.view, x.view, forward);  // settles the tier before the bench's own use of oneDNN
    const auto report = [&](const char* what, const auto& work, std::int64_t m, std::int64_t k, std::int64_t n) {
      bench::WholeProduct whole(dtype, m, k, n);
      const auto [ours, theirs] = best_seconds(work, [&] { whole.run(); });
      std::printf("%-22s %-16s %7.0f | %7.0f | %.2f\n", layer.name, what, operations / ours, operations / theirs,
                  theirs / ours);
    };
    report(
        "y = x W'", [&] { linear::matmul(*stream, y.view, x.view, forward); }, rows, layer.inputs, layer.outputs);
    report(
        "dx = dy W", [&] { linear::matmul(*stream, x.view, y.view, backward); }, rows, layer.outputs, layer.inputs);
    linear::Epilogue add;
    add.accumulate = core::Accumulate::kAdd;
    report(
        "dW += dy' x", [&] { linear::matmul(*stream, dw.view, y.view.transposed(0, 1), x.view, add); }, layer.outputs,
        rows, layer.inputs);
    const auto [packing, copying] =
        best_seconds([&] { forward.pack(*stream, w.view.transposed(0, 1)); }, [&] { backward.pack(*stream, w.view); });
    const double bytes = 2e-9 * static_cast<double>(w.view.bytes());
    std::printf("%-22s %-16s %7.1f | %7.1f GB/s, of the transpose | of the matrix\n", layer.name, "packing W",
                bytes / packing, bytes / copying);
  }
  return 0;
}
