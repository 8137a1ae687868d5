// SPDX-License-Identifier: Apache-2.0
// Training steps spread over two ranks of one thread beside the same steps on one rank of two; the sums of gradients
// beside MPI's; what state on a disk costs; and what pipeline stages wait. Run by mpirun with two ranks, see
// ../spread.sh. Usage: spread_bench FOLDER [turns [ranks] [offload] [pipeline]]
#include <mpi.h>
#include <omp.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/comm/collectives.h"
#include "kernels/core/arena.h"
#include "kernels/core/error.h"
#include "runner/recipe/recipe.h"
#include "stages/shared/model/recipe.h"
#include "stages/train/trainer.h"

namespace {

using namespace braise;
namespace fs = std::filesystem;

using Keys = std::vector<std::string>;

/// A training whose steps can be taken one at a time, on the ranks of a communicator.
class Run {
 public:
  Run(comm::Communicator& comm, const fs::path& scratch, const Keys& keys)
      : settings_(resolved(keys)),
        device_(core::kCpu, core::Space::kDevice, ledger_),
        host_(core::kCpu, core::Space::kHost, ledger_),
        stream_(core::make_stream(device_)),
        profile_{telemetry::PhaseTimer(), {scratch, comm.rank(), {}, telemetry::Clock::now()}},
        grid_(comm, settings_.tensor, settings_.pipeline) {
    const int ranks = comm.size() / (settings_.tensor * settings_.pipeline);
    std::string key, problem, remedy;
    const train::Lanes lanes =
        train::deal(settings_.global, settings_.micro, settings_.lanes, ranks, key, problem, remedy).value();
    std::vector<model::RecipeProblem> problems;
    const model::Config config =
        model::from_recipe(resolved(keys).at("model"), 0, settings_.sequence, problems).value();
    const train::Trainer::Around around{*stream_,
                                        host_,
                                        grid_,
                                        profile_,
                                        [this](std::string_view) { note_pass(); },
                                        [](std::string_view line) { std::printf("%s\n", line.data()); },
                                        scratch};
    trainer_ = std::make_unique<train::Trainer>(around, config, settings_, lanes, 1);
    trainer_->initialise();
    const std::int64_t rows = settings_.global / ranks;
    first_ = rows * grid_.place().data;
    ids_.resize(static_cast<std::size_t>(rows * settings_.sequence));
    for (std::size_t i = 0; i < ids_.size(); ++i)
      ids_[i] = static_cast<std::int32_t>(i * 7919 % static_cast<std::size_t>(config.vocabulary));
    batch_.ids = batch_.targets =
        core::TensorView(ids_.data(), core::Dtype::kInt32, core::Shape{rows, settings_.sequence});
    batch_.target_count = static_cast<std::int64_t>(ids_.size());
  }

  /// Seconds of a step's forward passes, then of its backward passes, then of the optimizer. What a pass waits for of
  /// other stages is not in it.
  std::vector<double> step() {
    passes_.forward_s.clear();
    passes_.backward_s.clear();
    const double optimizer_s = told_.of(telemetry::Phase::kOptimizer);
    trainer_->step(batch_, first_, ++steps_, 1e-4);
    note_pass();
    std::vector<double> seconds = passes_.forward_s;
    seconds.insert(seconds.end(), passes_.backward_s.begin(), passes_.backward_s.end());
    seconds.push_back(told_.of(telemetry::Phase::kOptimizer) - optimizer_s);
    return seconds;
  }

  std::vector<std::int64_t> unit_elements() const {
    std::vector<std::int64_t> elements;
    for (const model::Unit& unit : trainer_->decoder().units().all) elements.push_back(unit.elements);
    return elements;
  }

 private:
  static nlohmann::json resolved(const Keys& keys) {
    const std::string text =
        "recipe: 1\nname: bench\nstages:\n  job:\n    kind: train\n    data: {tokens: none.h5, sequence: 512}\n"
        "    model: {family: llama, layers: 8, hidden: 512, heads: 8, vocabulary: 8192}\n"
        "    batch: {global: 16, micro: 2}\n    steps: 1000\n    precision: {compute: bf16}\n";
    recipe::Overrides overrides;
    for (const std::string& key : keys) overrides.set.push_back("stages.job." + key);
    stages::Faults faults;
    const auto document = recipe::load_text(text, "bench", ".", overrides, faults);
    const auto recipe = document ? recipe::resolve(*document, {}, faults) : std::nullopt;
    if (!recipe) throw core::Error(stages::to_string(faults));
    return recipe->stages.at(0).config;
  }

  /// A pass that was begun has ended when something else is.
  void note_pass() {
    const telemetry::PhaseTotals now = profile_.phases.totals();
    const auto note = [&](std::vector<double>& passes, telemetry::Phase phase) {
      if (now.of(phase) > told_.of(phase)) passes.push_back(now.of(phase) - told_.of(phase));
    };
    note(passes_.forward_s, telemetry::Phase::kForward);
    note(passes_.backward_s, telemetry::Phase::kBackward);
    told_ = now;
  }

  struct {
    std::vector<double> forward_s, backward_s;
  } passes_;
  telemetry::PhaseTotals told_;
  const train::Settings settings_;
  core::MemoryLedger ledger_;
  core::Arena device_, host_;
  std::unique_ptr<core::Stream> stream_;
  telemetry::Profile profile_;
  train::Grid grid_;
  std::unique_ptr<train::Trainer> trainer_;
  std::vector<std::int32_t> ids_;
  data::HostBatch batch_;
  std::int64_t first_ = 0, steps_ = 0;
};

/// Waits for the other rank without taking a core from it.
void meet() {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    const timespec pause{0, 200'000};
    if (done == 0) ::nanosleep(&pause, nullptr);
  }
}

/// Seconds of work that rank 0 does with two threads, or both with one each.
template <class Work>
double seconds(bool together, int rank, const Work& work) {
  omp_set_num_threads(together ? 1 : 2);
  meet();
  const double start = MPI_Wtime();
  if (together || rank == 0) work();
  meet();
  return MPI_Wtime() - start;
}

struct Bench {
  comm::Communicator& world;
  comm::Communicator& alone;
  fs::path folder;
  int turns;
  bool tells() const { return world.rank() == 0; }

  std::unique_ptr<Run> run(bool together, const Keys& keys) const {
    omp_set_num_threads(together ? 1 : 2);
    if (!together && world.rank() != 0) return nullptr;
    Keys all = keys;
    all.push_back("resources.workers_per_node=" + std::to_string(together ? 2 : 1));
    return std::make_unique<Run>(together ? world : alone, folder, all);
  }

  /// The least seconds of a step of each, taken in turns.
  std::vector<double> compare(const std::vector<std::pair<bool, Keys>>& kinds) const {
    std::vector<std::unique_ptr<Run>> runs;
    for (const auto& [together, keys] : kinds) runs.push_back(run(together, keys));
    std::vector<double> least(kinds.size(), 1e30);
    for (int turn = 0; turn <= turns; ++turn) {
      for (std::size_t i = 0; i < kinds.size(); ++i) {
        least[i] = std::min(least[i], seconds(kinds[i].first, world.rank(), [&] { runs[i]->step(); }));
      }
    }
    return least;
  }

  /// The speed of two ranks, and seconds of a step by data parallelism.
  double ranks() const {
    const std::vector<double> s =
        compare({{false, {}}, {true, {}}, {true, {"parallel.zero=3"}}, {true, {"parallel.tensor=2"}}});
    if (tells()) {
      std::printf("a step on 1 rank x 2 threads: %.3f s\n", s[0]);
      const char* const names[] = {"", "data parallel", "ZeRO 3", "tensor 2"};
      const double bars[] = {0, 0.95, 0.88, 0.80};
      for (std::size_t i = 1; i < s.size(); ++i) {
        std::printf("  2 ranks x 1 thread, %-13s: %.3f s, %.3f of its speed (bar %.2f)\n", names[i], s[i], s[0] / s[i],
                    bars[i]);
      }
      std::fflush(stdout);
    }
    return s[1];
  }

  /// Sums of gradients, unit by unit as a training exchanges them.
  void sums(double step_s) const {
    const std::unique_ptr<Run> shape = run(true, {});
    core::MemoryLedger ledger;
    core::Arena arena(core::kCpu, core::Space::kDevice, ledger);
    comm::Collectives collectives(world, arena, "data");
    std::vector<core::Tensor> units;
    for (const std::int64_t elements : shape->unit_elements()) {
      units.push_back(arena.tensor(core::Dtype::kFloat32, core::Shape{elements}, core::Category::kGradients, "bench"));
      std::fill_n(units.back().view.data<float>(), elements, 0.0f);
    }
    const auto category = core::Category::kGradients;
    const auto ranges = [&](const core::Tensor& unit) { return comm::even_ranges(unit.view.elements(), 2, 4096); };
    const auto own = [&](const core::Tensor& unit) {
      const comm::Range range = ranges(unit)[static_cast<std::size_t>(world.rank())];
      return unit.view.slice(0, range.begin, range.end);
    };
    const auto all = [&](const auto& sum) {
      return [&] {
        for (const core::Tensor& unit : units) sum(unit);
      };
    };
    const auto all_reduce = [&](const core::Tensor& unit) {
      collectives.all_reduce_sum(std::span(&unit.view, 1), category).wait();
    };
    const auto mpi_all_reduce = [&](const core::Tensor& unit) {
      MPI_Allreduce(MPI_IN_PLACE, unit.view.data<float>(), static_cast<int>(unit.view.elements()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    };
    const auto reduce_scatter = [&](const core::Tensor& unit) {
      collectives
          .reduce_scatter_sum(std::span(&unit.view, 1), ranges(unit), own(unit), core::Accumulate::kOverwrite, category)
          .wait();
    };
    const auto mpi_reduce_scatter = [&](const core::Tensor& unit) {
      const std::vector<comm::Range> parts = ranges(unit);
      const int counts[] = {static_cast<int>(parts[0].size()), static_cast<int>(parts[1].size())};
      MPI_Reduce_scatter(MPI_IN_PLACE, unit.view.data<float>(), counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    };
    double tree = 1e30, mpi = 1e30, scattered = 1e30, mpi_scattered = 1e30;
    for (int turn = 0; turn <= 4 * turns; ++turn) {
      tree = std::min(tree, seconds(true, world.rank(), all(all_reduce)));
      mpi = std::min(mpi, seconds(true, world.rank(), all(mpi_all_reduce)));
      scattered = std::min(scattered, seconds(true, world.rank(), all(reduce_scatter)));
      mpi_scattered = std::min(mpi_scattered, seconds(true, world.rank(), all(mpi_reduce_scatter)));
    }
    if (!tells()) return;
    const auto tell = [&](const char* name, double ours, double theirs) {
      std::printf("%s of all gradients, in units: tree %.1f ms, MPI's %.1f ms: %+.2f %% of a step (bar 2)\n", name,
                  1e3 * ours, 1e3 * theirs, 100 * (ours - theirs) / step_s);
    };
    tell("all-reduce", tree, mpi);
    tell("reduce-scatter", scattered, mpi_scattered);
    std::fflush(stdout);
  }

  void offload() const {
    const Keys plain{"numerics.lanes=1"};
    const Keys on_disk{"numerics.lanes=1", "offload.optimizer=nvme", "offload.master=nvme"};
    const std::vector<double> s = compare({{false, plain}, {false, on_disk}});
    if (tells()) {
      std::printf("accumulation of 8 micro-batches: %.3f s, with the state on a disk %.3f s: %+.1f %% (bar 15)\n", s[0],
                  s[1], 100 * (s[1] / s[0] - 1));
      std::fflush(stdout);
    }
  }

  /// What two stages wait, of long steps, beside what 1F1B makes stages wait whose passes take as long as each did: a
  /// pass is quicker while the other stage waits, as memory and caches are then its own, so that the bubble is smaller
  /// than passes of equal length would make it. Medians of the steps.
  void pipeline() const {
    const std::vector<int> counts{4, 8, 16};
    std::vector<std::unique_ptr<Run>> runs;
    for (const int m : counts) {
      runs.push_back(run(true, {"parallel.pipeline=2", "model.vocabulary=256", "numerics.lanes=1", "batch.micro=1",
                                "batch.global=" + std::to_string(m)}));
    }
    std::vector<std::vector<double>> bubbles(counts.size()), theories(counts.size());
    for (int turn = -1; turn < 4 * turns; ++turn) {
      for (std::size_t i = 0; i < counts.size(); ++i) {
        std::vector<double> mine;
        const double step_s = seconds(true, world.rank(), [&] { mine = runs[i]->step(); });
        std::vector<double> both(2 * mine.size());
        world.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(both)));
        const std::span<const double> first = std::span(both).first(mine.size()),
                                      second = std::span(both).last(mine.size());
        const auto busy = [](std::span<const double> stage) {
          return std::accumulate(stage.begin(), stage.end() - 1, 0.0);
        };
        const double busiest_s = std::max(busy(first), busy(second));
        if (turn < 0) continue;
        bubbles[i].push_back((step_s - std::max(first.back(), second.back())) / busiest_s - 1);
        theories[i].push_back(scheduled_s(first, second, static_cast<std::size_t>(counts[i])) / busiest_s - 1);
      }
    }
    if (!tells()) return;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const auto [low, bubble, high] = quartiles(bubbles[i]);
      const double theory = quartiles(theories[i])[1];
      std::printf(
          "pipeline of 2, %2d micro-batches: bubble %.4f (quartiles %.4f and %.4f of %zu steps), in theory %.4f (of "
          "equal passes %.4f): ratio %.3f (bar 0.90 to 1.10)\n",
          counts[i], bubble, low, high, bubbles[i].size(), theory, 1.0 / counts[i], bubble / theory);
    }
    std::fflush(stdout);
  }

 private:
  /// When the last pass ends by 1F1B (see model::Pipeline): the first stage has one micro-batch more under way than the
  /// second. Of each stage: seconds of `micro` forward and as many backward passes.
  static double scheduled_s(std::span<const double> first, std::span<const double> second, std::size_t micro) {
    double first_s = first[0], second_s = 0, ready_s = first_s;
    for (std::size_t i = 0; i < micro; ++i) {
      second_s = std::max(second_s, ready_s) + second[i] + second[micro + i];
      if (i + 1 < micro) ready_s = first_s += first[i + 1];
      first_s = std::max(first_s, second_s) + first[micro + i];
    }
    return first_s;
  }

  static std::array<double, 3> quartiles(std::vector<double> values) {
    std::ranges::sort(values);
    const std::size_t n = values.size();
    return {values[n / 4], values[n / 2], values[3 * n / 4]};
  }
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: mpirun -n 2 spread_bench FOLDER [turns [ranks] [offload] [pipeline]]\n");
    return 2;
  }
  int provided = 0;
  MPI_Init_thread(&count, &arguments, MPI_THREAD_MULTIPLE, &provided);
  {
    const auto world = comm::mpi(), alone = comm::single();
    const Bench bench{*world, *alone, arguments[1], count > 2 ? std::atoi(arguments[2]) : 5};
    const auto wanted = [&](std::string_view part) {
      return count <= 3 || std::find(arguments + 3, arguments + count, part) != arguments + count;
    };
    if (wanted("ranks")) bench.sums(bench.ranks());
    if (wanted("offload")) bench.offload();
    if (wanted("pipeline")) bench.pipeline();
  }
  MPI_Finalize();
  return 0;
}
