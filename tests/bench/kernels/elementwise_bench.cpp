// SPDX-License-Identifier: Apache-2.0
// Rates of norms, activations, dropout and rotary embedding on bf16 [4096 x 768] and [4096 x 3072], in bytes read and
// written, beside copies of as many bytes by as many threads, in turns. Usage: elementwise_bench [fp32|bf16|fp16]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/activation/dropout.h"
#include "kernels/activation/gated.h"
#include "kernels/attention/rope.h"
#include "kernels/core/copy.h"
#include "kernels/core/parallel.h"
#include "kernels/core/random_fill.h"
#include "kernels/core/tier.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/rms_norm.h"

namespace {

using namespace braise;
using activation::Activation;
using core::Accumulate;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The shortest of 15 turns, in seconds, of each piece of work; one turn of all before the next of any.
std::vector<double> best_of(const std::vector<std::function<void()>>& work) {
  std::vector<double> best(work.size(), 1e9);
  for (int turn = 0; turn < 15; ++turn) {
    for (std::size_t i = 0; i < work.size(); ++i) {
      const double start = now();
      work[i]();
      best[i] = std::min(best[i], now() - start);
    }
  }
  return best;
}

void run(core::Dtype dtype, std::int64_t columns) {
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const auto stream_owner = core::make_stream(arena);
  core::Stream& stream = *stream_owner;
  const std::int64_t rows = 4096;
  const core::Shape shape{rows, columns};
  const core::RandomStream random(1, core::Purpose::kData);
  std::vector<core::Tensor> tensors;
  const auto made = [&](core::Dtype type, const core::Shape& of) {
    tensors.push_back(arena.tensor(type, of, core::Category::kActivations, "bench"));
    core::fill_normal(stream, tensors.back().view, random, 0, 0, 1);
    return tensors.back().view;
  };
  const auto x = made(dtype, shape);
  const auto dy = made(dtype, shape);
  const auto up = made(dtype, shape);
  const auto y = made(dtype, shape);
  const auto dx = made(dtype, shape);
  const auto weight = made(core::Dtype::kFloat32, {columns});
  const auto dweight = made(core::Dtype::kFloat32, {columns});
  const auto mean = made(core::Dtype::kFloat32, {rows});
  const auto inverse_std = made(core::Dtype::kFloat32, {rows});
  const core::Shape heads{4, 1024, columns / 64, 64};
  const auto table = attention::make_rope_table(stream, {64, 10000.0, {}}, 1024);

  struct Item {
    const char* name;
    int tensors;  // read and written
    std::function<void()> work;
  };
  std::vector<Item> items{{"copy", 2, [&] { core::copy(stream, y, x); }}};
  const auto add = [&](const char* name, int count, std::function<void()> work) {
    items.push_back({name, count, std::move(work)});
  };
  add("rms_norm_forward", 2, [&] { norm::rms_norm_forward(stream, y, inverse_std, x, weight, 1e-5f); });
  add("rms_norm_backward", 3,
      [&] { norm::rms_norm_backward(stream, dx, dweight, dy, x, inverse_std, weight, Accumulate::kOverwrite); });
  add("layer_norm_forward", 2,
      [&] { norm::layer_norm_forward(stream, y, mean, inverse_std, x, weight, weight, 1e-5f); });
  add("layer_norm_backward", 3, [&] {
    norm::layer_norm_backward(stream, dx, dweight, dweight, dy, x, mean, inverse_std, weight, Accumulate::kOverwrite);
  });
  for (const auto& [function, forward, backward] : {std::tuple(Activation::kGelu, "gelu", "gelu, backward"),
                                                    {Activation::kGeluTanh, "gelu_tanh", "gelu_tanh, backward"},
                                                    {Activation::kSilu, "silu", "silu, backward"}}) {
    add(forward, 2, [&, function = function] { activation::activation_forward(stream, y, x, function); });
    add(backward, 3, [&, function = function] {
      activation::activation_backward(stream, dx, dy, x, function, Accumulate::kOverwrite);
    });
  }
  add("swiglu", 3, [&] { activation::gated_forward(stream, y, x, up, Activation::kSilu); });
  add("swiglu, backward", 5,
      [&] { activation::gated_backward(stream, dx, y, dy, x, up, Activation::kSilu, Accumulate::kOverwrite); });
  add("dropout", 2, [&] { activation::dropout(stream, y, x, 0.1, random, 0); });
  add("rope, halves", 2, [&] {
    attention::rope_forward(stream, y.reshaped(heads), x.reshaped(heads), table, {}, attention::RopePairing::kHalves);
  });
  add("rope, interleaved", 2, [&] {
    attention::rope_forward(stream, y.reshaped(heads), x.reshaped(heads), table, {},
                            attention::RopePairing::kInterleaved);
  });
  add("fill_normal", 1, [&] { core::fill_normal(stream, y, random, 0, 0, 1); });

  std::vector<std::function<void()>> work;
  for (const Item& item : items) work.push_back(item.work);
  const std::vector<double> seconds = best_of(work);
  std::printf("%s %s, %d threads, tier %s\n", std::string(core::name(dtype)).c_str(), shape.text().c_str(),
              core::threads(), std::string(core::name(core::tier())).c_str());
  const auto rate = [&](std::size_t i) {
    return static_cast<double>(x.bytes() * items[i].tensors) / seconds[i] * 1e-9;
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::printf("  %-20s %8.3f ms  %6.1f GB/s  %3.0f %% of a copy\n", items[i].name, seconds[i] * 1e3, rate(i),
                100 * rate(i) / rate(0));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const auto dtype = core::dtype_named(argc > 1 ? argv[1] : "bf16");
  if (!dtype || !core::is_float(*dtype)) return 2;
  const int most = core::threads();
  for (int threads = 1; threads <= most; threads *= 2) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    for (const std::int64_t columns : {768, 3072}) run(*dtype, columns);
  }
  return 0;
}
