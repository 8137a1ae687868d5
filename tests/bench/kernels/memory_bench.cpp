// SPDX-License-Identifier: Apache-2.0
// Rates of what is bound by memory: copies, casts, transposes, sums, embeddings and the steps of optimizers, each
// beside a memcpy and a read-only sum measured in turns with it on the same threads. Usage: memory_bench
// [avx512|avx2|baseline]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/core/arena.h"
#include "kernels/core/copy.h"
#include "kernels/core/parallel.h"
#include "kernels/core/random.h"
#include "kernels/core/reduce.h"
#include "kernels/core/tier.h"
#include "kernels/embedding/embedding.h"
#include "kernels/optimizer/adam.h"
#include "kernels/optimizer/sgd.h"

namespace {

using namespace braise;
using core::Dtype;
using core::Shape;
using core::TensorView;

constexpr std::int64_t kParameters = 124'439'808;  // of GPT-2's smallest model
constexpr std::int64_t kPiece = 1 << 20;           // bytes of a piece of memcpy and of the sum

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Tensors with values that are neither zero nor all alike, every page written.
class Bench {
 public:
  Bench() : arena_(core::kCpu, core::Space::kDevice, ledger_), stream_(core::make_stream(arena_)) {}

  core::Stream& stream() { return *stream_; }

  core::Tensor tensor(Dtype dtype, const Shape& shape) {
    core::Tensor tensor = arena_.tensor(dtype, shape, core::Category::kActivations, "bench");
    static const std::vector<std::uint32_t> words = [] {
      std::vector<std::uint32_t> values(65536);
      const core::RandomStream random(1, core::Purpose::kData);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0x3c003c00u | (random.word(i) & 0x80ff80ffu);
      return values;
    }();
    const auto size = static_cast<std::int64_t>(words.size() * sizeof(words[0]));
    core::parallel_for((tensor.view.bytes() + size - 1) / size, [&](std::int64_t i) {
      std::memcpy(static_cast<std::byte*>(tensor.view.raw()) + i * size, words.data(),
                  static_cast<std::size_t>(std::min(size, tensor.view.bytes() - i * size)));
    });
    return tensor;
  }

 private:
  core::MemoryLedger ledger_;
  core::Arena arena_;
  std::unique_ptr<core::Stream> stream_;
};

void copy_bytes(void* to, const void* from, std::int64_t bytes) {
  core::parallel_for(bytes / kPiece, [&](std::int64_t i) {
    std::memcpy(static_cast<std::byte*>(to) + i * kPiece, static_cast<const std::byte*>(from) + i * kPiece, kPiece);
  });
}

std::uint64_t sum_of(const void* from, std::int64_t bytes) {
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(bytes / kPiece));
  core::parallel_for(bytes / kPiece, [&](std::int64_t i) {
    const auto* const words = static_cast<const std::uint64_t*>(from) + i * (kPiece / 8);
    std::array<std::uint64_t, 8> partial{};
    for (std::int64_t k = 0; k < kPiece / 8; k += 8) {
      for (std::size_t p = 0; p < 8; ++p) partial[p] += words[k + static_cast<std::int64_t>(p)];
    }
    for (const std::uint64_t p : partial) sums[static_cast<std::size_t>(i)] += p;
  });
  std::uint64_t sum = 0;
  for (const std::uint64_t piece : sums) sum += piece;
  return sum;
}

volatile std::uint64_t sink = 0;
std::string wanted;

/// Measures `work`, which reads and writes `bytes` in all, in turns with the two yardsticks over a and b.
template <class Work>
void report(const char* what, double bytes, TensorView a, TensorView b, const Work& work) {
  if (std::string(what).find(wanted) == std::string::npos) return;
  const std::int64_t size = std::min(a.bytes(), b.bytes()) / kPiece * kPiece;
  double seconds = 1e30;
  double copy_seconds = 1e30;
  double sum_seconds = 1e30;
  const double end = now() + 1.5;
  for (int i = 0; i < 3 || now() < end; ++i) {
    const double start = now();
    work();
    const double worked = now();
    copy_bytes(b.raw(), a.raw(), size);
    const double copied = now();
    sink = sink + sum_of(a.raw(), size);
    seconds = std::min(seconds, worked - start);
    copy_seconds = std::min(copy_seconds, copied - worked);
    sum_seconds = std::min(sum_seconds, now() - copied);
  }
  const auto gigabytes = 1e-9 * static_cast<double>(size);
  std::printf("%-40s %8.2f ms %7.1f | %7.1f | %7.1f\n", what, 1e3 * seconds, 1e-9 * bytes / seconds,
              2 * gigabytes / copy_seconds, gigabytes / sum_seconds);
}

void casts_and_transposes(Bench& bench, const Shape& shape) {
  const core::Tensor yardstick = bench.tensor(Dtype::kFloat32, shape);
  const core::Tensor other = bench.tensor(Dtype::kFloat32, shape);
  for (const auto& [to, from] : std::vector<std::pair<Dtype, Dtype>>{{Dtype::kFloat32, Dtype::kFloat32},
                                                                     {Dtype::kBfloat16, Dtype::kFloat32},
                                                                     {Dtype::kFloat32, Dtype::kBfloat16},
                                                                     {Dtype::kFloat16, Dtype::kFloat32},
                                                                     {Dtype::kFloat32, Dtype::kFloat16},
                                                                     {Dtype::kBfloat16, Dtype::kBfloat16}}) {
    const core::Tensor source = bench.tensor(from, shape);
    const core::Tensor destination = bench.tensor(to, shape);
    const core::Tensor turned = bench.tensor(to, Shape{shape[1], shape[0]});
    const auto bytes = static_cast<double>(source.view.bytes() + destination.view.bytes());
    const std::string names = std::string(core::name(from)) + " to " + std::string(core::name(to)) + " " + shape.text();
    report(("copy " + names).c_str(), bytes, yardstick.view, other.view,
           [&] { core::copy(bench.stream(), destination.view, source.view); });
    report(("transpose " + names).c_str(), bytes, yardstick.view, other.view,
           [&] { core::copy(bench.stream(), turned.view, source.view.transposed(0, 1)); });
  }
}

void permutation_and_fill(Bench& bench) {
  const core::Tensor yardstick = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  const core::Tensor other = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  const core::Tensor heads = bench.tensor(Dtype::kBfloat16, Shape{64, 1024, 12, 64});
  const core::Tensor by_head = bench.tensor(Dtype::kBfloat16, Shape{64, 12, 1024, 64});
  report("B T H D to B H T D, bf16", 2.0 * static_cast<double>(heads.view.bytes()), yardstick.view, other.view,
         [&] { core::copy(bench.stream(), by_head.view, heads.view.transposed(1, 2)); });
  report("fill, fp32", static_cast<double>(other.view.bytes()), yardstick.view, other.view,
         [&] { core::fill(bench.stream(), other.view, 0.0f); });
}

void sums(Bench& bench) {
  const core::Tensor x = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  const core::Tensor y = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  std::vector<double> sums(static_cast<std::size_t>(core::reduction_blocks(kParameters)));
  report("block sums of squares, fp32", static_cast<double>(x.view.bytes()), x.view, y.view,
         [&] { core::block_sums_of_squares(bench.stream(), sums, x.view); });
}

void embeddings(Bench& bench) {
  const std::int64_t batch = 64;
  const std::int64_t length = 1024;
  const core::Tensor yardstick = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  const core::Tensor other = bench.tensor(Dtype::kFloat32, Shape{kParameters});
  const core::Tensor table = bench.tensor(Dtype::kBfloat16, Shape{50257, 768});
  const core::Tensor places = bench.tensor(Dtype::kBfloat16, Shape{1024, 768});
  const core::Tensor y = bench.tensor(Dtype::kBfloat16, Shape{batch, length, 768});
  const core::Tensor ids = bench.tensor(Dtype::kInt32, Shape{batch, length});
  const core::Tensor positions = bench.tensor(Dtype::kInt32, Shape{batch, length});
  const core::Tensor dtable = bench.tensor(Dtype::kFloat32, Shape{50257, 768});
  const core::Tensor dplaces = bench.tensor(Dtype::kFloat32, Shape{1024, 768});
  const core::RandomStream random(2, core::Purpose::kData);
  for (std::int64_t i = 0; i < batch * length; ++i) {
    // As in text, a few ids make up much of it.
    const float uniform = core::uniform(random.word(static_cast<std::uint64_t>(i)));
    ids.view.data<std::int32_t>()[i] = static_cast<std::int32_t>(50257 * uniform * uniform * uniform * uniform);
    positions.view.data<std::int32_t>()[i] = static_cast<std::int32_t>(i % length);
  }
  const auto bytes = 2.0 * static_cast<double>(y.view.bytes());
  report("embedding, bf16 (rows read, y written)", bytes, yardstick.view, other.view, [&] {
    embedding::embedding_forward(bench.stream(), y.view, ids.view, table.view, positions.view, places.view);
  });
  report("its gradient (dy read twice)", bytes, yardstick.view, other.view, [&] {
    embedding::embedding_backward(bench.stream(), dtable.view, dplaces.view, y.view, ids.view, positions.view);
  });
}

void optimizers(Bench& bench) {
  const Shape shape{kParameters};
  const core::Tensor master = bench.tensor(Dtype::kFloat32, shape);
  const core::Tensor gradient = bench.tensor(Dtype::kFloat32, shape);
  const core::Tensor m = bench.tensor(Dtype::kFloat32, shape);
  const core::Tensor v = bench.tensor(Dtype::kFloat32, shape);
  const core::Tensor copy = bench.tensor(Dtype::kBfloat16, shape);
  const core::Tensor other = bench.tensor(Dtype::kFloat32, shape);
  core::fill(bench.stream(), v.view, 1e-4f);
  const optimizer::Slice slice{master.view, copy.view, gradient.view, 0.5f};
  const optimizer::Adam adamw{.learning_rate = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
  std::int64_t step = 0;
  report("AdamW, 124M, bf16 copy (30 B each)", 30.0 * static_cast<double>(kParameters), gradient.view, other.view,
         [&] { optimizer::adam_step(bench.stream(), slice, m.view, v.view, adamw, ++step); });
  const optimizer::Sgd sgd{.learning_rate = 1e-4, .momentum = 0.9};
  report("momentum, 124M, bf16 copy (22 B)", 22.0 * static_cast<double>(kParameters), gradient.view, other.view,
         [&] { optimizer::sgd_step(bench.stream(), slice, m.view, sgd, 2); });
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 2) wanted = arguments[2];
  if (count > 1) core::pin_tier(core::tier_named(arguments[1]).value());
  Bench bench;
  std::printf("%d threads, tier %s; time, GB/s of reading and writing | of memcpy | of a sum that only reads\n",
              core::threads(), std::string(core::name(core::tier())).c_str());
  casts_and_transposes(bench, Shape{8192, 12288});
  casts_and_transposes(bench, Shape{768, 3072});
  permutation_and_fill(bench);
  sums(bench);
  embeddings(bench);
  optimizers(bench);
  return 0;
}
