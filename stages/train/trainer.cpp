// SPDX-License-Identifier: Apache-2.0
#include "stages/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/error.h"
#include "kernels/core/reduce.h"
#include "kernels/optimizer/grad_norm.h"

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

std::unique_ptr<comm::Collectives> make_axis(comm::Communicator& comm, core::Arena& arena) {
  return comm.size() == 1 ? nullptr : std::make_unique<comm::Collectives>(comm, arena, "data");
}

std::vector<model::PartSpec> specs_of(const model::Decoder& decoder) {
  return model::part_specs(decoder.config(), decoder.part());
}

}  // namespace

Trainer::Trainer(const Around& around, const model::Config& config, const Settings& settings, const Lanes& lanes,
                 std::uint64_t seed)
    : stream_(around.stream),
      comm_(around.comm),
      settings_(settings),
      lanes_(lanes),
      seed_(seed),
      profile_(around.profile),
      operation_(around.operation),
      axis_(make_axis(comm_, stream_.arena())),
      decoder_(
          stream_, config,
          {.compute = settings.compute, .gradients = true, .checkpointing = settings.checkpointing(), .keeper = this}),
      shares_(decoder_.units(), specs_of(decoder_), comm_.size()),
      whole_(decoder_.units(), specs_of(decoder_), 1),
      owners_(settings.zero == 0 ? whole_ : shares_),
      owner_(settings.zero == 0 ? 0 : comm_.rank()),
      values_(stream_, axis_.get(), decoder_, settings.compute, owners_, owner_,
              {.gathers = settings.zero == 3,
               .home = settings.offload.parameters == Home::kHost ? &around.host : &stream_.arena()}),
      optimizer_(
          stream_, decoder_, values_, owners_, owner_, settings.optimizer, rules_of(config, settings),
          {.host = &around.host,
           .master = settings.offload.master,
           .optimizer = settings.offload.optimizer,
           .folder = settings.offload.path.empty() ? around.scratch : std::filesystem::path(settings.offload.path),
           .log = around.log}),
      gradients_(stream_, axis_.get(), decoder_, owners_, owner_,
                 {.zero = settings.zero,
                  .reduction = settings.reduction,
                  .dtype = settings.gradients,
                  .lanes = lanes,
                  .home = settings.offload.gradients == Home::kHost ? &around.host : &stream_.arena()}),
      loss_scale_(settings.loss_scale) {
  const Shape shape{settings.micro, settings.sequence};
  losses_ = stream_.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
  token_weights_ = stream_.arena().tensor(Dtype::kFloat32, shape, Category::kActivations, "loss");
}

void Trainer::initialise() {
  optimizer_.initialise(seed_);
  values_.changed();
}

void Trainer::load(const weights::Weights& weights) {
  optimizer_.load(weights);
  values_.changed();
}

void Trainer::load(const checkpoint::Checkpoint& checkpoint) {
  optimizer_.load(checkpoint);
  values_.changed();
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

/// Of sequences that are the `first` and the following of those that sums are of.
void Trainer::add_losses(Sums& sums, std::int64_t first, const ConstTensorView& losses,
                         const ConstTensorView& targets) const {
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
    sums.losses[static_cast<std::size_t>(first + b)] = total;
    sums.targets[static_cast<std::size_t>(first + b)] = count;
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

  Sums sums(mine.ids.extent(0));
  add_gradients(sums, mine, first, step, loss);
  std::vector<double> losses, blocks;
  {
    report("wait for the other ranks' gradients");
    const Scope scope(profile_, Phase::kCommunication, "exchange of gradients");
    gradients_.finish();
    losses = gather(comm_, sums.losses);
    blocks = block_sums();
  }
  report("optimizer step");
  const Scope scope(profile_, Phase::kOptimizer, "optimizer");
  outcome.loss = outcome.targets == 0 ? 0 : core::tree_sum(losses) / static_cast<double>(outcome.targets);
  outcome.gradient_norm = optimizer::norm_of_blocks(blocks) / scale;
  outcome.not_finite = what_is_not_finite(outcome.loss, losses, blocks);
  if (outcome.is_applied()) {
    double factor = 1 / scale;
    if (settings_.optimizer.clip > 0) {
      factor *= static_cast<double>(optimizer::clip_factor(outcome.gradient_norm, settings_.optimizer.clip));
    }
    optimizer_.apply(++updates_, learning_rate, static_cast<float>(factor), gradients_);
    gradients_.end_step();
    values_.changed();
  } else {
    gradients_.end_step();
  }
  return outcome;
}

/// The forward and backward passes of a step.
void Trainer::add_gradients(Sums& sums, const data::HostBatch& mine, std::int64_t first, std::int64_t step,
                            const loss::CrossEntropy& loss) {
  const std::int64_t lanes = lanes_.lanes_per_rank, micro_batches = lanes_.micro_batches;
  gradients_.begin_step();
  for (std::int64_t pass = 0; pass < lanes * micro_batches; ++pass) {
    const bool by_lane = settings_.reduction == Reduction::kStep;
    const std::int64_t lane = by_lane ? pass / micro_batches : pass % lanes;
    const std::int64_t i = by_lane ? pass % micro_batches : pass / lanes;
    const std::int64_t begin = (lane * micro_batches + i) * settings_.micro;
    model::Batch batch = micro_batch(mine, begin, begin + settings_.micro);
    batch.dropout = {seed_, static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(first + begin)};
    {
      report("forward pass");
      const Scope scope(profile_, Phase::kForward, "forward", {{"sequence", first + begin}});
      values_.begin_pass(true);
      decoder_.forward(losses_.view, batch, loss);
      add_losses(sums, begin, losses_.view, batch.targets);
    }
    if (pass == lanes * micro_batches - 1) optimizer_.prefetch();
    report("backward pass");
    const Scope scope(profile_, Phase::kBackward, "backward", {{"sequence", first + begin}});
    gradients_.begin_micro_batch(lane, i);
    decoder_.backward(token_weights_.view, batch, loss);
  }
}

/// The block sums of squares of all gradients that are not frozen, in the order of the parameters.
std::vector<double> Trainer::block_sums() const {
  const std::span<const model::Parameter> parameters = decoder_.parameters();
  std::vector<std::int64_t> first;  // of a parameter's blocks
  std::int64_t blocks = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    first.push_back(blocks);
    if (!optimizer_.rules()[i].frozen) blocks += core::reduction_blocks(parameters[i].spec.shape.elements());
  }
  std::vector<double> mine;
  for (const Segment& segment : optimizer_.segments()) {
    const auto own = static_cast<std::size_t>(core::reduction_blocks(segment.elements()));
    mine.resize(mine.size() + own);
    core::block_sums_of_squares(stream_, std::span(mine).last(own), gradients_.part(segment));
  }
  stream_.synchronize();
  const std::vector<double> gathered = owners_.ranks() == 1 ? mine : gather_unequal(comm_, mine);
  std::vector<double> all(static_cast<std::size_t>(blocks));
  auto next = gathered.begin();
  for (int rank = 0; rank < owners_.ranks(); ++rank) {
    for (const Segment& segment : owners_.segments(rank)) {
      if (optimizer_.rules()[segment.parameter].frozen) continue;
      const std::int64_t own = core::reduction_blocks(segment.elements());
      std::copy_n(next, own, all.begin() + first[segment.parameter] + segment.begin / core::kReductionBlock);
      next += own;
    }
  }
  return all;
}

std::string Trainer::what_is_not_finite(double loss, const std::vector<double>& losses,
                                        std::span<const double> blocks) const {
  if (!std::isfinite(loss)) {
    const auto first = std::find_if(losses.begin(), losses.end(), [](double one) { return !std::isfinite(one); });
    return "the loss of sequence " + std::to_string(first - losses.begin()) + " of the step";
  }
  if (std::isfinite(optimizer::norm_of_blocks(blocks))) return "";
  // Backward passes go through the parameters from the last to the first.
  const std::span<const model::Parameter> parameters = decoder_.parameters();
  for (std::size_t i = parameters.size(); i-- > 0;) {
    if (optimizer_.rules()[i].frozen) continue;
    const auto own = static_cast<std::size_t>(core::reduction_blocks(parameters[i].spec.shape.elements()));
    if (!std::isfinite(optimizer::norm_of_blocks(blocks.last(own))))
      return "the gradient of " + parameters[i].spec.name;
    blocks = blocks.first(blocks.size() - own);
  }
  return "the norm of all gradients";
}

double Trainer::evaluate(const data::BatchSource& validation, std::int64_t count) {
  const Scope scope(profile_, Phase::kValidation, "validation");
  const std::int64_t share = (count + comm_.size() - 1) / comm_.size();
  const std::int64_t end = std::min(count, share * (comm_.rank() + 1));
  const std::int64_t start = std::min(count, share * comm_.rank());
  Sums sums(end - start);
  // Passes are as many on every rank: units may have to be gathered from all.
  for (std::int64_t done = 0; done < share; done += settings_.micro) {
    report("validation");
    const std::int64_t begin = start + done;
    const std::int64_t rows = std::min(settings_.micro, end - begin);
    if (rows <= 0) {
      values_.accompany_pass();
      continue;
    }
    const data::HostBatch batch = validation.fetch(static_cast<std::uint64_t>(begin), rows);
    const core::TensorView losses = losses_.view.slice(0, 0, rows);
    values_.begin_pass(false);
    decoder_.evaluate(losses, micro_batch(batch, 0, rows), {data::kIgnored});
    add_losses(sums, done, losses, batch.targets);
  }
  report("wait for the other ranks' validation");
  const std::int64_t targets = sum(gather_unequal(comm_, sums.targets));
  return targets == 0 ? 0 : core::tree_sum(gather_unequal(comm_, sums.losses)) / static_cast<double>(targets);
}

std::vector<checkpoint::Piece> Trainer::pieces() {
  return optimizer_.pieces(shares_, comm_.rank());
}

void Trainer::restore(const checkpoint::Checkpoint& checkpoint) {
  optimizer_.restore(checkpoint);
}

void Trainer::restored() {
  values_.changed();
}

}  // namespace braise::train
