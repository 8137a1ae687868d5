// SPDX-License-Identifier: Apache-2.0
// An AdamW step on master weights and state in a scratch file, in chunks, beside the rate at which the same file is
// read and written past the page cache with nothing done between. Usage: offload_bench FOLDER [million parameters]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/copy.h"
#include "kernels/optimizer/adam.h"
#include "stages/shared/offload/chunk_loop.h"

namespace {

using namespace braise;
using core::TensorView;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds of one pass, its writes ended.
double pass(offload::ChunkLoop& loop, const offload::ChunkLoop::Work& work) {
  const double start = now();
  loop.run(work);
  loop.flush();
  return now() - start;
}

void bench(const char* folder, std::int64_t elements, std::int64_t chunk, int depth) {
  core::MemoryLedger ledger;
  core::Arena device(core::kCpu, core::Space::kDevice, ledger);
  core::Arena host(core::kCpu, core::Space::kHost, ledger);
  const auto stream = core::make_stream(device);
  const std::vector<std::int64_t> sizes(3, elements * 4);
  const auto store = std::make_unique<offload::Store>(folder, host, sizes,
                                                      [](std::string_view line) { std::printf("%s\n", line.data()); });
  using core::Category;
  offload::ChunkLoop loop(*store, host,
                          {{0, core::Dtype::kFloat32, true, Category::kMaster},
                           {1, core::Dtype::kFloat32, true, Category::kOptimizer},
                           {2, core::Dtype::kFloat32, true, Category::kOptimizer}},
                          elements, chunk, depth, "bench");
  const auto bf16 = [&](const char* owner) {
    return device.tensor(core::Dtype::kBfloat16, core::Shape{elements}, Category::kGradients, owner);
  };
  const core::Tensor gradient = bf16("gradient"), copy = bf16("parameters");
  core::fill(*stream, gradient.view, 0.01f);
  core::fill(*stream, copy.view, 0.0f);
  const optimizer::Adam adam{1e-4, 0.9, 0.95, 1e-8, 0.1, optimizer::WeightDecay::kDecoupled};
  pass(loop, [&](std::int64_t, std::int64_t, std::span<const TensorView> tensors) {
    for (const TensorView& tensor : tensors) core::fill(*stream, tensor, 0.5f);
  });
  double raw = 1e30, step = 1e30;
  for (std::int64_t s = 1; s <= 4; ++s) {
    raw = std::min(raw, pass(loop, [](std::int64_t, std::int64_t, std::span<const TensorView>) {}));
    step =
        std::min(step, pass(loop, [&](std::int64_t begin, std::int64_t end, std::span<const TensorView> tensors) {
                   optimizer::adam_step(
                       *stream, {tensors[0], copy.view.slice(0, begin, end), gradient.view.slice(0, begin, end), 1.0f},
                       tensors[1], tensors[2], adam, s);
                 }));
  }
  // Bytes in order without a pipeline's order of reads and writes: all read, then all written.
  double read = 1e30, write = 1e30;
  const std::int64_t piece = std::min<std::int64_t>(elements / 4096 * 4096, std::int64_t{16} << 20);
  const core::Tensor memory = host.tensor(core::Dtype::kFloat32, core::Shape{piece}, Category::kWorkspace, "raw");
  core::fill(*stream, memory.view, 0.5f);
  for (int turn = 0; turn < 3; ++turn) {
    double start = now();
    for (int region = 0; region < 3; ++region) {
      for (std::int64_t at = 0; at + piece <= elements; at += piece) store->read(region, at * 4, memory.view).wait();
    }
    read = std::min(read, now() - start);
    start = now();
    for (int region = 0; region < 3; ++region) {
      for (std::int64_t at = 0; at + piece <= elements; at += piece) store->write(region, at * 4, memory.view).wait();
    }
    write = std::min(write, now() - start);
  }
  const double moved = 24.0 * static_cast<double>(elements);
  const double plain = 24.0 * static_cast<double>(elements / piece * piece) / (read + write);
  std::printf(
      "chunks of %5lld Ki, %d deep%s: AdamW %.2f GB/s | pipeline without work %.2f (%.0f %%) | all read, then "
      "all written %.2f (%.0f %%)\n",
      static_cast<long long>(chunk >> 10), depth, loop.registered() ? "" : ", not registered", 1e-9 * moved / step,
      1e-9 * moved / raw, 100 * raw / step, 1e-9 * plain, 100 * moved / step / plain);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: offload_bench FOLDER [million parameters]\n");
    return 2;
  }
  const std::int64_t elements = (count > 2 ? std::atoll(arguments[2]) : 128) * 1'000'000;
  for (const std::int64_t chunk : {256 << 10, 1 << 20, 4 << 20}) {
    for (const int depth : {4, 8}) bench(arguments[1], elements, chunk, depth);
  }
  return 0;
}
