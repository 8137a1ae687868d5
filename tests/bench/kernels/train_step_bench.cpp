// SPDX-License-Identifier: Apache-2.0
// One optimizer step of GPT-2 124M (micro-batch x T tokens of random ids, AdamW, fp32 master weights), beside the rate
// of oneDNN's matrix product on the same threads before and after it, and the ledger's memory beside the process's own.
// Usage: train_step_bench [fp32|bf16] [micro-batch] [T] [steps] [none|attention|all]
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "kernels/core/copy.h"
#include "kernels/core/random.h"
#include "kernels/core/tier.h"
#include "kernels/linear/matmul.h"
#include "kernels/linear/tier.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/grad_norm.h"
#include "stages/shared/model/decoder.h"
#include "tests/bench/kernels/whole_product.h"

namespace {

using namespace braise;
using core::Category;
using core::Dtype;
using core::Shape;
using core::Tensor;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// "VmHWM" or "VmRSS" of this process, in bytes.
double process_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

/// FLOP/s of oneDNN's own product 4096 x 3072 x 768 on all threads: the best of 0.3 seconds.
class GemmRate {
 public:
  explicit GemmRate(Dtype dtype) : product_(dtype, kRows, kDepth, kColumns) {}
  double measure() {
    double best = 1e30;
    const double end = now() + 0.3;
    while (now() < end) {
      const double start = now();
      product_.run();
      best = std::min(best, now() - start);
    }
    return 2.0 * kRows * kDepth * kColumns / best;
  }

 private:
  static constexpr std::int64_t kRows = 4096;
  static constexpr std::int64_t kDepth = 768;
  static constexpr std::int64_t kColumns = 3072;
  bench::WholeProduct product_;
};

model::Config gpt2_124m(std::int64_t length) {
  model::Config c;
  c.model_type = "gpt2";
  c.family = model::Family::kGpt2;
  c.vocabulary = 50257;
  c.layers = 12;
  c.hidden = 768;
  c.heads = c.kv_heads = 12;
  c.head_size = 64;
  c.intermediate = 3072;
  c.positions = std::max<std::int64_t>(1024, length);
  c.norm = model::Norm::kLayer;
  c.activation = activation::Activation::kGeluTanh;
  c.gated = false;
  c.qkv_bias = c.o_bias = c.mlp_bias = true;
  c.tied = true;
  c.attention_scale = 0.125;
  return c;
}

}  // namespace

int main(int count, char** arguments) {
  const auto argument = [&](int i, const char* otherwise) { return std::string(count > i ? arguments[i] : otherwise); };
  const Dtype dtype = core::dtype_named(argument(1, "bf16")).value_or(Dtype::kBfloat16);
  const std::int64_t sequences = std::stol(argument(2, "4"));
  const std::int64_t length = std::stol(argument(3, "1024"));
  const int steps = std::stoi(argument(4, "5"));
  model::DecoderSettings settings;
  settings.compute = dtype;
  if (argument(5, "none") == "attention") settings.checkpointing.kind = model::Checkpointing::Kind::kAttention;
  if (argument(5, "none") == "all") settings.checkpointing.kind = model::Checkpointing::Kind::kEveryBlock;

  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const auto stream = core::make_stream(arena);
  const model::Config config = gpt2_124m(length);
  linear::settle_tier();
  GemmRate gemm(dtype);
  double rate_before = gemm.measure();
  const double before_bytes = process_bytes("VmRSS");
  model::Decoder decoder(*stream, config, settings);
  decoder.initialise(1337);

  struct Optimized {
    Tensor master, m, v;
  };
  std::vector<Optimized> state;
  std::vector<core::ConstTensorView> gradients;
  for (const model::Parameter& parameter : decoder.parameters()) {
    Optimized& one = state.emplace_back();
    const auto fp32 = [&](Category category) {
      Tensor tensor = arena.tensor(Dtype::kFloat32, parameter.spec.shape, category, parameter.spec.name);
      core::fill(*stream, tensor.view, 0);
      return tensor;
    };
    if (dtype != Dtype::kFloat32) {
      one.master = fp32(Category::kMaster);
      core::copy(*stream, one.master.view, parameter.value);
    }
    one.m = fp32(Category::kOptimizer);
    one.v = fp32(Category::kOptimizer);
    gradients.push_back(parameter.gradient);
  }

  const Shape shape{sequences, length};
  const Tensor ids = arena.tensor(Dtype::kInt32, shape, Category::kActivations, "batch");
  const Tensor targets = arena.tensor(Dtype::kInt32, shape, Category::kActivations, "batch");
  const Tensor losses = arena.tensor(Dtype::kFloat32, shape, Category::kActivations, "batch");
  const Tensor weights = arena.tensor(Dtype::kFloat32, shape, Category::kActivations, "batch");
  core::fill(*stream, weights.view, 1.0f / static_cast<float>(shape.elements()));
  const core::RandomStream random(7, core::Purpose::kData);
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    const auto id = [&](std::int64_t at) {
      return static_cast<std::int32_t>(random.word(static_cast<std::uint64_t>(at)) % 50257u);
    };
    ids.view.data<std::int32_t>()[i] = id(i);
    targets.view.data<std::int32_t>()[i] = id(i + 1);
  }
  model::Batch batch;
  batch.ids = ids.view;
  batch.targets = targets.view;

  const auto tokens = static_cast<double>(shape.elements());
  // 6 N for the products with weights (the embedding counts as the head), and 12 layers C T for attention: causal
  // models do half of it, but it is counted whole, as is usual.
  const double model_flops = tokens * (6.0 * static_cast<double>(config.parameter_count()) +
                                       12.0 * static_cast<double>(config.layers * config.hidden * length));
  std::vector<double> ratios;
  std::map<std::string, double> best;
  double best_step = 1e30;
  for (int step = 1; step <= steps; ++step) {
    std::map<std::string, double> seconds;
    const auto timed = [&](const std::string& name, const auto& work) {
      const double start = now();
      work();
      seconds[name] = now() - start;
    };
    const double start = now();
    timed("1 zero gradients", [&] { decoder.zero_gradients(); });
    timed("2 forward", [&] { decoder.forward(losses.view, batch); });
    timed("3 backward", [&] { decoder.backward(weights.view, batch); });
    timed("4 tied gradient, norm", [&] { decoder.finish_gradients(); });
    double norm = 0;
    timed("4 tied gradient, norm", [&] { norm = optimizer::gradient_norm(*stream, gradients); });
    timed("5 AdamW", [&] {
      for (std::size_t i = 0; i < state.size(); ++i) {
        const model::Parameter& parameter = decoder.parameters()[i];
        optimizer::Slice slice;
        slice.master = state[i].master.view ? state[i].master.view : parameter.value;
        if (state[i].master.view) slice.copy = parameter.value;
        slice.gradient = parameter.gradient;
        slice.gradient_scale = optimizer::clip_factor(norm, 1.0);
        optimizer::Adam adam;
        adam.learning_rate = 3e-4;
        adam.beta1 = 0.9;
        adam.beta2 = 0.95;
        adam.epsilon = 1e-8;
        adam.weight_decay = parameter.spec.shape.rank() == 2 ? 0.1 : 0;
        optimizer::adam_step(*stream, slice, state[i].m.view, state[i].v.view, adam, step);
      }
    });
    timed("6 packing weights", [&] { decoder.values_changed(); });
    const double whole = now() - start;
    // Machines that others share change their speed from second to second: the rate is that of just before and after.
    const double rate_after = gemm.measure();
    const double floor = model_flops / ((rate_before + rate_after) / 2);
    rate_before = rate_after;
    if (step > 1) ratios.push_back(floor / whole);
    if (step > 1 && whole < best_step) {
      best_step = whole;
      best = seconds;
    }
    double loss = 0;
    for (std::int64_t i = 0; i < shape.elements(); ++i) loss += losses.view.data<float>()[i];
    std::printf("step %d: loss %.6f, grad norm %.4f, %.3f s, of which GEMM's rate would take %.3f s: %.2f\n", step,
                loss / tokens, norm, whole, floor, floor / whole);
    std::fflush(stdout);
  }
  const double used_bytes = process_bytes("VmHWM") - before_bytes;

  std::printf("\nGPT-2 124M, %s, micro-batch %ld, T %ld, %d threads, tier %s\n", std::string(core::name(dtype)).c_str(),
              sequences, length, omp_get_max_threads(), std::string(core::name(core::tier())).c_str());
  for (const auto& [name, seconds] : best) std::printf("  %-24s %8.1f ms\n", name.c_str(), seconds * 1e3);
  std::printf("  %-24s %8.1f ms: %.0f tokens/s, %.0f GFLOP/s of the model\n", "best step", best_step * 1e3,
              tokens / best_step, model_flops / best_step / 1e9);
  std::sort(ratios.begin(), ratios.end());
  if (!ratios.empty()) {
    std::printf("  the floor, model FLOPs at GEMM's rate, over the step: median %.2f, best %.2f\n",
                ratios[ratios.size() / 2], ratios.back());
  }
  const double ledger_bytes = static_cast<double>(ledger.total_peak_bytes(core::Space::kDevice));
  std::printf("  memory: ledger's peak %.1f MiB, process's peak less its start %.1f MiB, ratio %.3f\n",
              ledger_bytes / 1048576, used_bytes / 1048576, ledger_bytes / used_bytes);
  return 0;
}
