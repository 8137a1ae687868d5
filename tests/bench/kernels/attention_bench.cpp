// SPDX-License-Identifier: Apache-2.0
// Attention of GPT-2 124M's 12 heads of 64, causal: seconds, the rate of the operations that the mask leaves (4 D for a
// pair of query and key forward, 10 D backward), and the workspace, for ever longer sequences: time
// grows with T, memory must not grow faster. Usage: attention_bench [fp32|bf16]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include "kernels/attention/attention.h"
#include "kernels/core/arena.h"
#include "kernels/core/parallel.h"
#include "kernels/core/random_fill.h"
#include "kernels/core/tier.h"
#include "kernels/linear/tier.h"

namespace {

using namespace braise;
using core::Category;
using core::Shape;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class Work>
double best_of(int turns, const Work& work) {
  double best = 1e30;
  for (int turn = 0; turn < turns; ++turn) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

void run(core::Dtype dtype, std::int64_t sequences, std::int64_t length) {
  constexpr std::int64_t kHeads = 12;
  constexpr std::int64_t kDepth = 64;
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const auto stream = core::make_stream(arena);
  const Shape shape{sequences, length, kHeads, kDepth};
  const core::RandomStream random(1, core::Purpose::kData);
  std::uint64_t first = 0;
  const auto made = [&](float deviation) {
    core::Tensor tensor = arena.tensor(dtype, shape, Category::kActivations, "bench");
    core::fill_normal(*stream, tensor.view, random, first, 0, deviation);
    first += static_cast<std::uint64_t>(shape.elements());
    return tensor;
  };
  const core::Tensor q = made(1), k = made(1), v = made(1), d_o = made(1), o = made(0), dq = made(0), dk = made(0),
                     dv = made(0);
  const core::Tensor log_sums =
      arena.tensor(core::Dtype::kFloat32, Shape{sequences, kHeads, length}, Category::kActivations, "bench");
  const double forward =
      best_of(7, [&] { attention::attention_forward(*stream, o.view, log_sums.view, q.view, k.view, v.view, 0.125f); });
  const double backward = best_of(7, [&] {
    attention::attention_backward(*stream, dq.view, dk.view, dv.view, d_o.view, o.view, log_sums.view, q.view, k.view,
                                  v.view, 0.125f);
  });
  const double pairs = static_cast<double>(sequences * kHeads) * static_cast<double>(length * (length + 1)) / 2;
  std::printf("T %5ld x %2ld: forward %7.2f ms %6.0f GFLOP/s, backward %7.2f ms %6.0f GFLOP/s, workspace %.2f MiB\n",
              length, sequences, forward * 1e3, 4 * kDepth * pairs / forward * 1e-9, backward * 1e3,
              10 * kDepth * pairs / backward * 1e-9,
              static_cast<double>(ledger.peak_bytes(core::Space::kDevice, Category::kWorkspace)) / 1048576);
}

}  // namespace

int main(int argc, char** argv) {
  const auto dtype = core::dtype_named(argc > 1 ? argv[1] : "bf16");
  if (!dtype || !core::is_float(*dtype)) return 2;
  std::printf("%s, %d threads, tier %s\n", std::string(core::name(*dtype)).c_str(), core::threads(),
              std::string(core::name(linear::settle_tier())).c_str());
  for (const std::int64_t length : {256, 1024, 4096}) run(*dtype, 4096 / length, length);
  run(*dtype, 1, 8192);
  return 0;
}
