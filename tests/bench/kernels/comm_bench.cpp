// SPDX-License-Identifier: Apache-2.0
// The deterministic sum over ranks beside MPI's own, and how much of it a computation hides. Run by mpirun; see
// ../comm.sh. Usage: comm_bench [MB...]
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/core/arena.h"

namespace {

using namespace braise;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

volatile float sink = 1;

/// Arithmetic in registers, which asks nothing of memory; from a value that the compiler does not know.
float compute(std::int64_t rounds) {
  float x = sink;
  for (std::int64_t i = 0; i < rounds; ++i) x = x * 0.999f + 0.001f;
  return x;
}

/// The slowest rank's seconds, the least of several tries.
template <class Work>
double seconds(comm::Communicator& comm, int tries, const Work& work) {
  double least = 1e30;
  for (int i = 0; i < tries; ++i) {
    comm.barrier();
    const double start = now();
    work();
    const double mine = now() - start;
    least = std::min(least, 1e-9 * static_cast<double>(comm.all_max(static_cast<std::int64_t>(1e9 * mine))));
  }
  return least;
}

void measure(comm::Communicator& comm, std::int64_t megabytes) {
  core::MemoryLedger ledger;
  core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
  const std::int64_t elements = megabytes * 250'000;
  const core::Tensor tensor =
      arena.tensor(core::Dtype::kFloat32, core::Shape{elements}, core::Category::kGradients, "bench");
  std::fill_n(tensor.view.data<float>(), elements, 0.0f);
  comm::Collectives collectives(comm, arena, "data");
  const std::span<const core::TensorView> tensors(&tensor.view, 1);
  const auto category = core::Category::kGradients;
  const int tries = megabytes > 100 ? 3 : 7;
  double sum = 1e30, mpi = 1e30;
  for (int turn = 0; turn < 2; ++turn) {
    sum = std::min(sum, seconds(comm, tries, [&] { collectives.all_reduce_sum(tensors, category).wait(); }));
    mpi = std::min(mpi, seconds(comm, tries, [&] {
                     MPI_Allreduce(MPI_IN_PLACE, tensor.view.data<float>(), static_cast<int>(elements), MPI_FLOAT,
                                   MPI_SUM, MPI_COMM_WORLD);
                   }));
  }
  // As long a computation as the sum takes.
  std::int64_t rounds = 1'000'000;
  rounds =
      static_cast<std::int64_t>(static_cast<double>(rounds) * sum / seconds(comm, 3, [&] { sink = compute(rounds); }));
  const double alone = seconds(comm, tries, [&] { sink = compute(rounds); });
  const double both = seconds(comm, tries, [&] {
    comm::Pending pending = collectives.all_reduce_sum(tensors, category);
    sink = compute(rounds);
    pending.wait();
  });
  if (comm.rank() == 0) {
    std::printf("%5lld MB %9.2f ms %9.2f ms  %5.2f | %9.2f ms alone, %9.2f ms with the sum: %3.0f %% hidden\n",
                static_cast<long long>(megabytes), 1e3 * sum, 1e3 * mpi, sum / mpi, 1e3 * alone, 1e3 * both,
                100 * (alone + sum - both) / std::min(alone, sum));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int count, char** arguments) {
  int provided = 0;
  MPI_Init_thread(&count, &arguments, MPI_THREAD_MULTIPLE, &provided);
  {
    const auto comm = comm::mpi();
    if (comm->rank() == 0) {
      std::printf("%d ranks: time of the sum by a tree, of MPI_Allreduce, ratio | a computation as long\n",
                  comm->size());
    }
    std::vector<std::int64_t> sizes;
    for (int i = 1; i < count; ++i) sizes.push_back(std::atoll(arguments[i]));
    if (sizes.empty()) sizes = {1, 5, 25, 100, 500};
    for (const std::int64_t megabytes : sizes) measure(*comm, megabytes);
  }
  MPI_Finalize();
  return 0;
}
