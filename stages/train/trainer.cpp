// SPDX-License-Identifier: Apache-2.0
#include "stages/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/reduce.h"
#include "kernels/optimizer/grad_norm.h"
#include "stages/shared/weights/weights.h"

namespace braise::train {
namespace {

using core::Category;
using core::ConstTensorView;
using core::Dtype;
using core::Shape;
using telemetry::Phase;
using telemetry::Scope;

std::vector<ParameterRule> rules_of(const model::Config& config, const Settings& settings) {
  std::vector<std::string> unused;
  std::vector<ParameterRule> rules =
      parameter_rules(model::parameter_specs(config), settings.optimizer, settings.freeze, unused);
  if (!unused.empty()) throw core::Error("the pattern \"" + unused.front() + "\" fits no parameter of the model");
  return rules;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// Every rank's values, in the order of the ranks; all give equally many.
template <class T>
std::vector<T> gather(comm::Communicator& comm, const std::vector<T>& mine) {
  std::vector<T> all(mine.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(bytes_of(mine), std::as_writable_bytes(std::span(all)));
  return all;
}

/// The same where some give more.
template <class T>
std::vector<T> gather_unequal(comm::Communicator& comm, const std::vector<T>& mine) {
  std::vector<T> all;
  const std::span<const std::byte> bytes = bytes_of(mine);
  for (const std::string& theirs :
       comm.all_gather(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()))) {
    const auto* const values = reinterpret_cast<const T*>(theirs.data());
    all.insert(all.end(), values, values + theirs.size() / sizeof(T));
  }
  return all;
}

std::int64_t sum(const std::vector<std::int64_t>& values) {
  std::int64_t total = 0;
  for (const std::int64_t value : values) total += value;
  return total;
}

}  // namespace

Trainer::Trainer(core::Stream& stream, comm::Communicator& comm, const model::Config& config, const Settings& settings,
                 const Lanes& lanes, std::uint64_t seed, telemetry::Profile& profile,
                 std::function<void(std::string_view)> operation)
    : stream_(stream),
      comm_(comm),
      settings_(settings),
      lanes_(lanes),
      seed_(seed),
      profile_(profile),
      operation_(std::move(operation)),
      decoder_(stream, config,
               {.compute = settings.compute, .gradients = true, .checkpointing = settings.checkpointing()}),
      optimizer_(stream, decoder_, settings.optimizer, rules_of(config, settings)),
      gradients_(stream, decoder_.accumulators(), lanes.lanes_per_rank, settings.gradients),
      loss_scale_(settings.loss_scale) {
  const Shape shape{settings.micro, settings.sequence};
  losses_ = stream.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
  token_weights_ = stream.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
}

void Trainer::initialise() {
  optimizer_.initialise(seed_);
  decoder_.values_changed();
}

void Trainer::load(const weights::Weights& weights) {
  decoder_.load(weights);
  optimizer_.load(weights);
  decoder_.values_changed();
}

void Trainer::load(const checkpoint::Checkpoint& checkpoint) {
  optimizer_.load(checkpoint);
  decoder_.values_changed();
}

model::Batch Trainer::micro_batch(const data::HostBatch& batch, std::int64_t begin, std::int64_t end) const {
  const auto rows = [&](const ConstTensorView& tensor) {
    return tensor ? tensor.slice(0, begin, end) : ConstTensorView();
  };
  model::Batch micro;
  micro.ids = rows(batch.ids);
  micro.targets = rows(batch.targets);
  micro.positions = rows(batch.positions);
  micro.document_starts = rows(batch.document_starts);
  return micro;
}

void Trainer::add_losses(Sums& sums, const ConstTensorView& losses, const ConstTensorView& targets) const {
  stream_.synchronize();
  const float* const values = losses.data<float>();
  const std::int32_t* const wanted = targets.data<std::int32_t>();
  const std::int64_t length = losses.extent(1);
  for (std::int64_t b = 0; b < losses.extent(0); ++b) {
    double total = 0;
    std::int64_t count = 0;
    for (std::int64_t t = b * length; t < (b + 1) * length; ++t) {
      if (wanted[t] == data::kIgnored) continue;
      total += static_cast<double>(values[t]);
      ++count;
    }
    sums.losses.push_back(total);
    sums.targets.push_back(count);
  }
}

StepOutcome Trainer::step(const data::HostBatch& mine, std::int64_t first, std::int64_t step, double learning_rate) {
  const loss::CrossEntropy loss{data::kIgnored, settings_.label_smoothing, settings_.z_loss};
  const bool scaled = settings_.compute == Dtype::kFloat16;
  const double scale = scaled ? loss_scale_.scale() : 1;

  StepOutcome outcome;
  {
    const Scope scope(profile_, Phase::kCommunication, "count targets");
    outcome.targets = sum(gather(comm_, std::vector<std::int64_t>{mine.target_count}));
  }
  // The gradient of the mean over the targets of the whole batch, however it is cut.
  const double weight = outcome.targets == 0 ? 0 : scale / static_cast<double>(outcome.targets);
  core::fill(stream_, token_weights_.view, static_cast<float>(weight));

  Sums sums;
  std::int64_t begin = 0;
  gradients_.begin();
  for (std::int64_t lane = 0; lane < lanes_.lanes_per_rank; ++lane) {
    for (std::int64_t i = 0; i < lanes_.micro_batches; ++i) {
      model::Batch batch = micro_batch(mine, begin, begin + settings_.micro);
      batch.dropout = {seed_, static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(first + begin)};
      {
        report("forward pass");
        const Scope scope(profile_, Phase::kForward, "forward", {{"sequence", first + begin}});
        decoder_.forward(losses_.view, batch, loss);
        add_losses(sums, losses_.view, batch.targets);
      }
      report("backward pass");
      const Scope scope(profile_, Phase::kBackward, "backward", {{"sequence", first + begin}});
      decoder_.backward(token_weights_.view, batch, loss);
      begin += settings_.micro;
    }
    const Scope scope(profile_, Phase::kBackward, "sum of lanes", {{"lane", lane}});
    gradients_.lane_done();
  }
  std::vector<double> losses;
  {
    report("wait for the other ranks' gradients");
    const Scope scope(profile_, Phase::kCommunication, "exchange of gradients");
    gradients_.exchange(comm_);
    losses = gather(comm_, sums.losses);
  }
  report("optimizer step");
  const Scope scope(profile_, Phase::kOptimizer, "optimizer");
  decoder_.finish_gradients();
  outcome.loss = outcome.targets == 0 ? 0 : core::tree_sum(losses) / static_cast<double>(outcome.targets);
  const double norm = optimizer::gradient_norm(stream_, optimizer_.gradients());
  outcome.gradient_norm = norm / scale;
  outcome.not_finite = what_is_not_finite(outcome.loss, norm, losses);
  if (!outcome.is_applied()) return outcome;
  double factor = 1 / scale;
  if (settings_.optimizer.clip > 0) {
    factor *= static_cast<double>(optimizer::clip_factor(outcome.gradient_norm, settings_.optimizer.clip));
  }
  optimizer_.apply(++updates_, learning_rate, static_cast<float>(factor));
  decoder_.values_changed();
  return outcome;
}

std::string Trainer::what_is_not_finite(double loss, double norm, const std::vector<double>& losses) const {
  if (!std::isfinite(loss)) {
    const auto first = std::find_if(losses.begin(), losses.end(), [](double one) { return !std::isfinite(one); });
    return "the loss of sequence " + std::to_string(first - losses.begin()) + " of the step";
  }
  if (std::isfinite(norm)) return "";
  // Backward passes go through the parameters from the last to the first.
  const std::span<const model::Parameter> parameters = decoder_.parameters();
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const ConstTensorView gradient = parameters[i].gradient;
    if (!std::isfinite(optimizer::gradient_norm(stream_, std::span(&gradient, 1)))) {
      return "the gradient of " + parameters[i].spec.name;
    }
  }
  return "the norm of all gradients";
}

double Trainer::evaluate(const data::BatchSource& validation, std::int64_t count) {
  const Scope scope(profile_, Phase::kValidation, "validation");
  const std::int64_t share = (count + comm_.size() - 1) / comm_.size();
  const std::int64_t end = std::min(count, share * (comm_.rank() + 1));
  Sums sums;
  for (std::int64_t begin = std::min(count, share * comm_.rank()); begin < end;) {
    report("validation");
    const std::int64_t rows = std::min(settings_.micro, end - begin);
    const data::HostBatch batch = validation.fetch(static_cast<std::uint64_t>(begin), rows);
    const core::TensorView losses = losses_.view.slice(0, 0, rows);
    decoder_.evaluate(losses, micro_batch(batch, 0, rows), {data::kIgnored});
    add_losses(sums, losses, batch.targets);
    begin += rows;
  }
  report("wait for the other ranks' validation");
  const std::int64_t targets = sum(gather_unequal(comm_, sums.targets));
  return targets == 0 ? 0 : core::tree_sum(gather_unequal(comm_, sums.losses)) / static_cast<double>(targets);
}

std::vector<StateTensor> Trainer::tensors() const {
  std::vector<StateTensor> tensors;
  for (const model::Parameter& parameter : decoder_.parameters()) {
    tensors.push_back({"parameters/" + parameter.spec.name, parameter.value});
  }
  for (StateTensor& tensor : optimizer_.tensors()) tensors.push_back(std::move(tensor));
  return tensors;
}

void Trainer::restored() {
  decoder_.values_changed();
}

}  // namespace braise::train
