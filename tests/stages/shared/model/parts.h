// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/comm/groups.h"
#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "stages/shared/model/decoder.h"
#include "stages/shared/model/pipeline.h"
#include "tests/support/tensors.h"
#include "tests/support/thread_ranks.h"

/// Decoders of parts on ranks that are threads, and what they have put together.
namespace braise::test {

struct PartsRun {
  int tensor = 1;
  int stages = 1;
  model::DecoderSettings settings;
  std::function<void(core::Stream&, model::Decoder&)> prepare;  ///< sets the values
  std::vector<model::Batch> micro_batches;                      ///< of one shape
  core::ConstTensorView weights;                                ///< of losses
  loss::CrossEntropy loss;
  bool logits = false;  ///< of the first batch too; with one stage
};

/// Logical tensors by name, and numbers of all micro-batches one after another.
struct Assembled {
  std::map<std::string, std::vector<float>> values, gradients;
  std::vector<double> losses, logits;
  std::map<int, std::int64_t> activations;  ///< the most bytes of them, by stage

  std::string bytes() const {
    std::string all;
    for (const auto& [name, gradient] : gradients) {
      all.append(reinterpret_cast<const char*>(gradient.data()), gradient.size() * sizeof(float));
    }
    all.append(reinterpret_cast<const char*>(losses.data()), losses.size() * sizeof(double));
    return all;
  }
};

/// Puts one rank's elements where they belong; ranks that have the same must agree to the bit.
inline void assemble(std::map<std::string, std::vector<float>>& whole, const model::Parameter& parameter,
                     const std::vector<double>& mine) {
  std::vector<float>& all = whole[parameter.spec.name];
  all.resize(static_cast<std::size_t>(parameter.spec.shape.elements()), NAN);
  parameter.cut.for_each_run([&](std::int64_t local, std::int64_t logical, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      float& element = all[static_cast<std::size_t>(logical + i)];
      const auto value = static_cast<float>(mine[static_cast<std::size_t>(local + i)]);
      if (!std::isnan(element) && element != value) throw core::Error(parameter.spec.name + " differs between ranks");
      element = value;
    }
  });
}

inline Assembled run_parts(const model::Config& config, const PartsRun& run) {
  Assembled result;
  std::mutex mutex;
  with_ranks(run.tensor * run.stages, [&](comm::Communicator& world) {
    const comm::Groups groups = comm::make_groups(world.size(), run.tensor, run.stages, 1);
    const comm::Groups::Place place = groups.place(world.rank());
    const auto tensor = world.split(groups.tensor_group(world.rank()));
    const auto pipe = world.split(groups.pipeline_group(world.rank()));
    Bench bench;
    model::Decoder decoder(bench.stream(), config, run.settings,
                           model::part_of(config, place.tensor, run.tensor, place.pipeline, run.stages), *tensor);
    run.prepare(bench.stream(), decoder);
    model::Pipeline pipeline(bench.stream(), decoder, *pipe);
    const auto get = [&](const core::ConstTensorView& of) {
      const TestTensor copied(core::Dtype::kFloat32, of.shape());
      core::copy(bench.stream(), copied.view(), of);
      return copied.values();
    };
    const core::Shape shape = run.micro_batches.front().ids.shape();
    std::vector<double> logits, losses;
    if (run.logits) {
      const TestTensor all(core::Dtype::kFloat32, core::Shape{shape[0], shape[1], config.vocabulary});
      decoder.logits(all.view(), run.micro_batches.front());
      logits = all.values();
    }
    const TestTensor each(core::Dtype::kFloat32, shape);
    const auto keep = [&] {
      const std::vector<double> values = each.values();
      losses.insert(losses.end(), values.begin(), values.end());
    };
    std::vector<double> evaluated;
    for (const model::Batch& batch : run.micro_batches) {
      if (batch.dropout) continue;
      pipeline.evaluate(each.view(), batch, run.loss);
      if (pipeline.is_last()) keep();
    }
    std::swap(evaluated, losses);
    bench.ledger().reset_peaks();
    if (run.settings.gradients) {
      decoder.zero_gradients();
      model::Pipeline::Work work;
      work.micro_batches = static_cast<std::int64_t>(run.micro_batches.size());
      work.batch = [&](std::int64_t i) { return run.micro_batches[static_cast<std::size_t>(i)]; };
      work.losses = each.view();
      work.weights = run.weights;
      work.loss = run.loss;
      work.begin_forward = work.begin_backward = work.backward_done = [](std::int64_t) {};
      work.forward_done = [&](std::int64_t) {
        if (pipeline.is_last()) keep();
      };
      pipeline.run(work);
      decoder.finish_gradients();
      if (pipeline.has_other_end()) {
        for (const model::Parameter& parameter : decoder.parameters()) {
          if (parameter.spec.role == model::Role::kTokens) pipeline.add_other_end(parameter.gradient);
        }
      }
      if (!evaluated.empty() && evaluated != losses) throw core::Error("evaluate and forward differ");
    }
    const std::scoped_lock lock(mutex);
    result.activations[place.pipeline] =
        std::max(result.activations[place.pipeline],
                 bench.ledger().peak_bytes(core::Space::kDevice, core::Category::kActivations));
    if (pipeline.is_last()) {
      if (!result.losses.empty() && result.losses != losses) throw core::Error("losses differ between ranks");
      result.losses = losses;
      if (!result.logits.empty() && result.logits != logits) throw core::Error("logits differ between ranks");
      result.logits = logits;
    }
    for (const model::Parameter& parameter : decoder.parameters()) {
      assemble(result.values, parameter, get(parameter.value));
      if (run.settings.gradients) assemble(result.gradients, parameter, get(parameter.gradient));
    }
  });
  return result;
}

}  // namespace braise::test
